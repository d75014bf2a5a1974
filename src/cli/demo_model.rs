//! `culm demo-model`: a provider to try things with.

use std::process::ExitCode;

use tokio::net::TcpListener;

use super::{Failure, process::stop_signal};

pub(crate) async fn serve(listen: &str) -> Result<ExitCode, Failure> {
    let in_use = |error: std::io::Error| Failure::new(8, format!("cannot listen on {listen}: {error}"));
    let listener = TcpListener::bind(listen).await.map_err(in_use)?;
    let address = listener.local_addr().map_err(in_use)?;
    let stop = stop_signal().map_err(|error| Failure::new(1, error))?;
    println!("the demo model is ready");
    println!("  base_url  http://{address}/v1");
    println!("  try       curl http://{address}  (what it can be told to do)");
    tokio::select! {
        served = culm::demo_model::serve(listener) => served.map_err(|error| Failure::new(1, error))?,
        () = stop.cancelled() => {}
    }
    Ok(ExitCode::SUCCESS)
}
