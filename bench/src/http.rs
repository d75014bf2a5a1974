//! A client that is cheaper than any server: requests are bytes that are ready, answers are read to their end and no
//! further looked at.

use std::{net::SocketAddr, rc::Rc, time::Instant};

use bench_protocol::Took;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::{Builder, Runtime},
    task::LocalSet,
};

use crate::Outcome;

/// Bytes of an answer's body that are kept at most: of a longer one, none.
const KEPT: usize = 4 << 20;
/// Bytes that are read at once of one that is not kept.
const PASSED_OVER: usize = 256 << 10;

/// Where to ask, and what to show.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) at: SocketAddr,
    /// The token, where one is asked for.
    pub(crate) token: Option<String>,
}

impl Address {
    pub(crate) fn get(&self, target: &str) -> Vec<u8> {
        self.request("GET", target, &[], &[])
    }

    pub(crate) fn post(&self, target: &str, json: &str) -> Vec<u8> {
        self.request("POST", target, &[("content-type", "application/json")], json.as_bytes())
    }

    /// A request as it goes over the wire.
    pub(crate) fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let mut request =
            format!("{method} {target} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n", self.at, body.len());
        if let Some(token) = &self.token {
            request += &format!("authorization: Bearer {token}\r\n");
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        [request.as_bytes(), body].concat()
    }
}

/// One connection, kept alive.
pub(crate) struct Client {
    stream: TcpStream,
    /// What was read of the answer.
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: &Address) -> Outcome<Self> {
        let stream = TcpStream::connect(address.at).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(64 << 10) })
    }

    /// Sends a request, and gives the answer's status and body.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Outcome<(u16, &[u8])> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let (status, head, length) = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the server closed the connection".into());
            }
            if let Some(found) = head(&self.buffer)? {
                break found;
            }
        };
        if length > KEPT {
            self.pass_over(head + length - self.buffer.len()).await?;
            return Ok((status, &[]));
        }
        while self.buffer.len() < head + length {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the server closed the connection within an answer".into());
            }
        }
        Ok((status, &self.buffer[head..head + length]))
    }

    /// Reads bytes that nobody looks at, always into the same memory.
    async fn pass_over(&mut self, mut bytes: usize) -> Outcome<()> {
        self.buffer.resize(PASSED_OVER, 0);
        while bytes > 0 {
            let most = bytes.min(PASSED_OVER);
            bytes -= match self.stream.read(&mut self.buffer[..most]).await? {
                0 => return Err("the server closed the connection within an answer".into()),
                read => read,
            };
        }
        Ok(())
    }

    /// Sends a request that must succeed, and gives the answer's body.
    pub(crate) async fn succeed(&mut self, request: &[u8]) -> Outcome<&[u8]> {
        match self.ask(request).await? {
            (200..300, body) => Ok(body),
            (status, body) => Err(format!("{status}: {}", String::from_utf8_lossy(body)).into()),
        }
    }
}

/// The status, the bytes of the head, and those of the body, once the head is there.
fn head(bytes: &[u8]) -> Outcome<Option<(u16, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes)? else { return Ok(None) };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    // No answer that is measured here is chunked.
    Ok(Some((response.code.unwrap_or(0), head, length.ok_or("an answer without a length")?)))
}

/// One thread: a generator of several would take the cores from the server.
pub(crate) fn runtime() -> Outcome<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Sends requests from many clients at once, each client its own, one after the other: a sample each, in microseconds.
pub(crate) fn load(address: &Address, requests: Vec<Vec<Rc<[u8]>>>) -> Outcome<Took> {
    let (runtime, local) = (runtime()?, LocalSet::new());
    local.block_on(&runtime, async {
        let mut clients = Vec::with_capacity(requests.len());
        for requests in requests {
            clients.push((Client::connect(address).await?, requests));
        }
        let begun = Instant::now();
        let tasks: Vec<_> =
            clients.into_iter().map(|(client, own)| tokio::task::spawn_local(each(client, own))).collect();
        let mut micros = Vec::new();
        for task in tasks {
            micros.extend(task.await??);
        }
        Ok(Took { micros, seconds: begun.elapsed().as_secs_f64() })
    })
}

/// The same request from each of these clients, this often in all.
pub(crate) fn load_same(address: &Address, clients: usize, count: usize, request: &[u8]) -> Outcome<Took> {
    let request: Rc<[u8]> = request.into();
    load(address, vec![vec![request; count / clients]; clients])
}

async fn each(mut client: Client, requests: Vec<Rc<[u8]>>) -> Outcome<Vec<f64>> {
    let mut samples = Vec::with_capacity(requests.len());
    for request in requests {
        let begun = Instant::now();
        client.succeed(&request).await?;
        samples.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(samples)
}

/// One request by itself, and its answer's body.
pub(crate) fn once(address: &Address, request: &[u8]) -> Outcome<Vec<u8>> {
    runtime()?.block_on(async { Ok(Client::connect(address).await?.succeed(request).await?.to_vec()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_whole_or_not_there_yet() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(head(answer).unwrap(), Some((200, answer.len() - 5, 5)));
        assert_eq!(head(&answer[..20]).unwrap(), None);
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
