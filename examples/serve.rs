//! Serves a component of `wasi:http` over HTTP/1.1, a fresh instance for each request:
//!
//! ```text
//! cargo run --release --example serve -- [component.wasm] [address]
//! ```
//!
//! The simplest loop there is: a task for each connection, no TLS, no routes. The answer's body is the guest's own, as it
//! writes it; a client that goes away ends the call.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use isopod::{Body, ErrorKind, Function, Host};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 1_000;
/// Instances that are ready before a request comes.
const READY: u32 = 64;

#[tokio::main]
pub async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let guest = args.next().map_or_else(
        || [env!("CARGO_MANIFEST_DIR"), "guests", "built", "http-hello-p2.wasm"].iter().collect(),
        PathBuf::from,
    );
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let function = Host::new()?.function("hello").component_file(&guest).prewarm(READY).load().await?;
    let listener = TcpListener::bind(&address).await.with_context(|| format!("cannot listen on {address}"))?;
    println!("{} at http://{}/", guest.display(), listener.local_addr()?);
    serve(listener, function).await
}

/// Serves connections until it is dropped.
async fn serve(listener: TcpListener, function: Function) -> Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("a connection was not accepted: {error}");
                // There may be no descriptor left: others end meanwhile.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            eprintln!("a connection may be slower: {error}");
        }
        let function = function.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&function, request));
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                eprintln!("a connection ended: {error:?}");
            }
            drop(place);
        });
    }
}

/// What the guest answers, or in its place why it did not.
async fn answer(function: &Function, request: Request<Incoming>) -> Result<Response<Either<Body, Full<Bytes>>>> {
    let error = match function.http(request).await {
        Ok(response) => return Ok(response.map(Either::Left)),
        Err(error) => error,
    };
    eprintln!("{error}");
    let status = match error.kind() {
        ErrorKind::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Ok(Response::builder().status(status).body(Either::Right(Full::default()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// Two requests on one connection.
    #[tokio::test]
    async fn it_serves() -> Result<()> {
        let guest: PathBuf = [env!("CARGO_MANIFEST_DIR"), "guests", "built", "http-hello-p2.wasm"].iter().collect();
        let function = Host::new()?.function("hello").component_file(guest).prewarm(2).load().await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(serve(listener, function));
        let mut stream = TcpStream::connect(address).await?;
        let request =
            "GET /hello HTTP/1.1\r\nhost: a\r\n\r\nGET /hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        assert_eq!(answer.matches("Hello from WASI 0.2").count(), 2, "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
        serving.abort();
        Ok(())
    }
}
