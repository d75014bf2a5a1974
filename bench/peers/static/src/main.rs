//! What a server of this kind can do at most: answers of a given size that are ready in memory, and a file that is copied
//! in, to the disk, and out. Its arguments are a directory and the answers' sizes; it says where it listens.

use std::{io, path::PathBuf, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    routing::get,
};
use futures_util::StreamExt;
use tokio::{fs::File, io::AsyncWriteExt, net::TcpListener};
use tokio_util::io::ReaderStream;

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().map(PathBuf::from).ok_or(io::ErrorKind::InvalidInput)?;
    let mut routes = Router::new().route("/file", get(send).put(store)).with_state(Arc::new(directory.join("file")));
    for (place, size) in arguments.filter_map(|size| size.parse().ok()).enumerate() {
        let body = Bytes::from(vec![b' '; size]);
        let answer = move || async move { ([(header::CONTENT_TYPE, "application/json")], body) };
        routes = routes.route(&format!("/{place}"), get(answer));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, routes).await
}

/// The body, into a file and onto the disk.
async fn store(State(path): State<Arc<PathBuf>>, request: Request) -> Result<StatusCode, StatusCode> {
    let stored = async {
        let (mut file, mut body) = (File::create(&*path).await?, request.into_body().into_data_stream());
        while let Some(bytes) = body.next().await {
            file.write_all(&bytes.map_err(io::Error::other)?).await?;
        }
        file.flush().await?;
        file.sync_all().await
    };
    stored.await.map(|()| StatusCode::CREATED).map_err(|_: io::Error| StatusCode::INTERNAL_SERVER_ERROR)
}

/// The file's bytes.
async fn send(State(path): State<Arc<PathBuf>>) -> Result<([(header::HeaderName, u64); 1], Body), StatusCode> {
    let file = File::open(&*path).await.map_err(|_| StatusCode::NOT_FOUND)?;
    let length = file.metadata().await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?.len();
    let body = Body::from_stream(ReaderStream::with_capacity(file, 256 << 10));
    Ok(([(header::CONTENT_LENGTH, length)], body))
}
