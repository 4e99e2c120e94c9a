//! Sends requests by WASI 0.3: see the world `http-client`.
#![no_main]

use std::rc::Rc;
use wasi::http::client::send;
use wasi::http::types::{self, Fields, Method, Scheme};
use wit_bindgen::StreamResult;

wit_bindgen::generate!({ path: "wit/http-p3", world: "http-client", generate_all });

const CHUNK: usize = 4096;

struct Client;

impl Guest for Client {
    async fn fetch(request: Request) -> Result<Response, String> {
        let request = Rc::new(request);
        for _ in 1..request.copies {
            let request = Rc::clone(&request);
            wit_bindgen::spawn_local(async move { exchange(&request).await.map(drop).unwrap_or_default() });
        }
        exchange(&request).await
    }
}

async fn exchange(request: &Request) -> Result<Response, String> {
    let headers: Vec<_> =
        request.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
    let headers = Fields::from_list(&headers).map_err(name)?;
    let (mut to, stream) = wit_stream::new();
    let (ended, end) = wit_future::new(|| Ok(None));
    let (out, _sent) = types::Request::new(headers, Some(stream), end, None);
    let invalid = |what: &str| format!("invalid {what}");
    let scheme = match request.scheme.as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let method = if request.method == "GET" { Method::Get } else { Method::Other(request.method.clone()) };
    out.set_method(&method).map_err(|()| invalid("method"))?;
    out.set_scheme(Some(&scheme)).map_err(|()| invalid("scheme"))?;
    out.set_authority(Some(&request.authority)).map_err(|()| invalid("authority"))?;
    out.set_path_with_query(Some(&request.path)).map_err(|()| invalid("path"))?;
    let body = request.body.clone();
    wit_bindgen::spawn_local(async move {
        to.write_all(body).await;
        drop(to);
        let _ = ended.write(Ok(None)).await;
    });

    let response = send(out).await.map_err(name)?;
    let status = response.get_status_code();
    let headers = response.get_headers().copy_all();
    let headers = headers.into_iter().map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()));
    let headers = headers.collect();
    let (_, no_error) = wit_future::new(|| Ok(()));
    let (mut from, end) = types::Response::consume_body(response, no_error);
    let mut all = Vec::new();
    loop {
        let (result, chunk) = from.read(Vec::with_capacity(CHUNK)).await;
        all.extend(chunk);
        if result == StreamResult::Dropped {
            break;
        }
    }
    drop(from);
    end.await.map_err(name)?;
    Ok(Response { status, headers, body: all })
}

/// The name of an error code, without what comes with it.
fn name(code: impl std::fmt::Debug) -> String {
    let text = format!("{code:?}");
    let name = text.strip_prefix("ErrorCode::").unwrap_or(&text);
    name.split(['(', ' ']).next().unwrap_or_default().to_owned()
}

export!(Client);
