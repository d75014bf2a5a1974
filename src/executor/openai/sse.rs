//! An answer's bytes, as the pieces of JSON that are in it. Labels are often wrong, so the first bytes decide what it is:
//! server-sent events, JSON lines, one JSON value or a web page. It knows nothing of what the JSON means.

/// Bytes that wait for the rest of an event, at most.
pub(super) const EVENT: usize = 4 << 20;
/// Bytes that are kept of text that is no event.
const STRAY: usize = 500;

/// A piece of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// What an event holds: JSON, or `[DONE]`.
    Data(String),
    /// The data of an event that is named `error`, or of a field of that name.
    Error(String),
}

/// An event is longer than [`EVENT`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing but white space so far.
    Unknown,
    /// It begins like JSON: a line of it decides whether it is JSON lines.
    Json,
    Lines,
    /// One value, or a page: read to its end.
    Whole,
}

/// Splits an answer as its bytes come.
#[derive(Debug)]
pub(super) struct Splitter {
    kind: Kind,
    is_json: bool,
    /// The bytes of a line, or of the whole, that has not ended.
    pending: Vec<u8>,
    data: Option<String>,
    is_error: bool,
    after_cr: bool,
    stray: String,
}

impl Default for Splitter {
    fn default() -> Self {
        let (pending, stray) = (Vec::new(), String::new());
        Self { kind: Kind::Unknown, is_json: false, pending, data: None, is_error: false, after_cr: false, stray }
    }
}

impl Splitter {
    /// Takes bytes, and gives the pieces that they complete. A broken character is shown as U+FFFD.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<Vec<Piece>, TooLong> {
        let mut pieces = Vec::new();
        if self.kind == Kind::Unknown {
            self.pending.extend_from_slice(bytes);
            self.kind = kind(&self.pending);
            self.is_json = self.kind == Kind::Json;
            if self.kind == Kind::Unknown {
                let blank = self.pending.len() - self.pending.trim_ascii_start().len();
                self.pending.drain(..blank);
                return Ok(pieces);
            }
            let begun = std::mem::take(&mut self.pending);
            return self.take(without_mark(&begun));
        }
        while self.kind != Kind::Whole && !bytes.is_empty() {
            let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else { break };
            let is_rest_of_end = end == 0 && bytes[0] == b'\n' && std::mem::take(&mut self.after_cr);
            self.after_cr = bytes[end] == b'\r';
            if !is_rest_of_end {
                self.pending.extend_from_slice(&bytes[..end]);
                self.end_line(&mut pieces);
            }
            bytes = &bytes[end + 1..];
        }
        if !bytes.is_empty() {
            self.after_cr = false;
        }
        self.pending.extend_from_slice(bytes);
        match self.pending.len() + self.data.as_ref().map_or(0, String::len) > EVENT {
            true => Err(TooLong),
            false => Ok(pieces),
        }
    }

    /// What is left when no more bytes come: also an event that lacks the empty line at its end.
    pub(super) fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        match self.kind {
            Kind::Lines => self.end_line(&mut pieces),
            Kind::Json | Kind::Whole => {
                let whole = std::mem::take(&mut self.pending);
                pieces.push(Piece::Data(String::from_utf8_lossy(&whole).into_owned()));
            }
            Kind::Unknown => {}
        }
        pieces.extend(self.event());
        pieces
    }

    /// Whether the answer is JSON that is no stream of events.
    pub(super) fn is_json(&self) -> bool {
        self.is_json
    }

    /// The beginning of text that is neither JSON nor an event.
    pub(super) fn stray(&self) -> Option<&str> {
        Some(self.stray.trim()).filter(|text| !text.is_empty())
    }

    fn end_line(&mut self, pieces: &mut Vec<Piece>) {
        if self.kind == Kind::Json {
            if serde_json::from_slice::<serde::de::IgnoredAny>(&self.pending).is_err() {
                // The line goes on with what was its end.
                self.pending.push(b'\n');
                self.kind = Kind::Whole;
                return;
            }
            self.kind = Kind::Lines;
        }
        let line = std::mem::take(&mut self.pending);
        let line = String::from_utf8_lossy(&line);
        if line.is_empty() {
            pieces.extend(self.event());
        } else if line.starts_with(['{', '[']) {
            pieces.extend(self.event());
            pieces.push(Piece::Data(line.into_owned()));
        } else {
            self.field(&line);
        }
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" | "error" => {
                self.is_error |= name == "error";
                match &mut self.data {
                    Some(data) => *data = format!("{data}\n{value}"),
                    None => self.data = Some(value.into()),
                }
            }
            "event" => self.is_error = value == "error",
            "" | "id" | "retry" => {}
            _ if self.stray.len() < STRAY => self.stray = format!("{} {line}", self.stray),
            _ => {}
        }
    }

    /// The event that ends here.
    fn event(&mut self) -> Option<Piece> {
        let is_error = std::mem::take(&mut self.is_error);
        let data = self.data.take()?;
        Some(if is_error { Piece::Error(data) } else { Piece::Data(data) })
    }
}

const MARK: &[u8] = "\u{feff}".as_bytes();

/// An answer without white space and a byte order mark before it.
fn without_mark(beginning: &[u8]) -> &[u8] {
    let text = beginning.trim_ascii_start();
    text.strip_prefix(MARK).unwrap_or(text).trim_ascii_start()
}

/// What an answer is that begins like this.
fn kind(beginning: &[u8]) -> Kind {
    let text = without_mark(beginning);
    match text.first() {
        None => Kind::Unknown,
        Some(_) if MARK.starts_with(text) => Kind::Unknown,
        Some(b'{') => Kind::Json,
        Some(b'[' | b'<') => Kind::Whole,
        Some(_) => Kind::Lines,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(text: &str) -> Piece {
        Piece::Data(text.into())
    }

    /// The pieces of an answer, whose bytes come so many at a time.
    fn split(bytes: &[u8], at_a_time: usize) -> Vec<Piece> {
        let mut splitter = Splitter::default();
        let mut pieces: Vec<Piece> = bytes.chunks(at_a_time).flat_map(|bytes| splitter.take(bytes).unwrap()).collect();
        pieces.extend(splitter.finish());
        pieces
    }

    #[test]
    fn the_bytes_decide_what_an_answer_is_however_they_are_cut() {
        let cases: [(&[u8], Vec<Piece>); 11] = [
            (b"data: {\"a\":1}\n\ndata:[DONE]\n\n", vec![data("{\"a\":1}"), data("[DONE]")]),
            (b"\xef\xbb\xbfdata: {}\r\n\r\n: ping\r\n\r\ndata: \r\n\r\n", vec![data("{}"), data("")]),
            (b"data: {}\r\rdata: {}", vec![data("{}"), data("{}")]),
            (b"\n\nid: 1\nevent: x\ndata: {\ndata: }\n\n", vec![data("{\n}")]),
            (b"data: \xf0\x9f end \xe2\x98\x83\n\n", vec![data("\u{fffd} end \u{2603}")]),
            (b"{\"a\":1}\n{\"b\":2}\n", vec![data("{\"a\":1}"), data("{\"b\":2}")]),
            (b"{\n \"a\": 1\n}\n", vec![data("{\n \"a\": 1\n}\n")]),
            (b"{\"a\":1}", vec![data("{\"a\":1}")]),
            (b"<html>\n</html>", vec![data("<html>\n</html>")]),
            (b"event: error\ndata: {}\n\ndata: {}\n\n", vec![Piece::Error("{}".into()), data("{}")]),
            (b"error: {\"code\":500}\n\n", vec![Piece::Error("{\"code\":500}".into())]),
        ];
        for (bytes, wanted) in cases {
            for at_a_time in [1, 2, 3, 7, 1000] {
                let shown = String::from_utf8_lossy(bytes);
                assert_eq!(split(bytes, at_a_time), wanted, "{at_a_time} at a time: {shown:?}");
            }
        }
    }

    #[test]
    fn text_that_is_no_event_is_kept_to_be_told() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.take(b"upstream connect error\n").unwrap(), []);
        assert_eq!((splitter.finish(), splitter.stray()), (vec![], Some("upstream connect error")));
    }

    #[test]
    fn an_event_has_a_bound() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.take(b"data: ").unwrap(), []);
        assert_eq!(splitter.take(&vec![b'x'; EVENT]), Err(TooLong));
    }
}
