//! `wasi:http`, 0.2 and 0.3: hand a request to a started instance, and its response to whoever waits for it.

use super::entry::Entry;
use super::lease::Lease;
use super::overlap::Part;
use super::state::State;
use super::trap::Fault;
use crate::capability::Reach;
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures_util::future::try_join;
use http_body_util::combinators::UnsyncBoxBody;
use std::pin::Pin;
use tokio::sync::oneshot;
use wasmtime::component::Accessor;
use wasmtime_wasi_http::{WasiHttpView, p2, p3};

/// A request as the guest gets it.
pub(crate) type Request = http::Request<GuestBody>;
/// A response as the guest gave it; its body goes on while the call does.
pub(crate) type Response = http::Response<GuestBody>;
/// A body on its way in or out.
pub(crate) type GuestBody = UnsyncBoxBody<Bytes, HttpError>;
/// What `wasi:http` calls an error.
pub(crate) type HttpError = wasmtime_wasi_http::Error;

/// Serves one request. The response is sent as soon as its head is there; this goes on until the guest has ended and
/// `read` says that the body was read to its end, or why nobody reads on.
pub(crate) async fn serve(
    lease: &mut Lease,
    entry: &Entry,
    request: Request,
    response: oneshot::Sender<Response>,
    read: oneshot::Receiver<Result<()>>,
) -> Result<(), Fault> {
    // A reader that is gone without a word has dropped the call with it.
    let read = async { read.await.unwrap_or(Ok(())).map_err(Fault::Own) };
    let instance = lease.instance()?;
    let proxy = match entry {
        Entry::Http03(indices) => {
            let service = indices.load(&mut lease.store, &instance)?;
            let serving =
                async |accessor: &Accessor<State>| serve_03(accessor, &service, None, request, response, read).await;
            return lease.store.run_concurrent(serving).await?;
        }
        Entry::Http02(indices) => indices.load(&mut lease.store, &instance)?,
        _ => return Err(Error::new(ErrorKind::Internal, "it serves no http; please report this").into()),
    };
    let scheme = match request.uri().scheme_str() {
        Some("https") => p2::bindings::http::types::Scheme::Https,
        _ => p2::bindings::http::types::Scheme::Http,
    };
    let mut view = lease.store.data_mut().own_view().http();
    let request = view.new_incoming_request(scheme, request)?;
    let (set, mut answer) = oneshot::channel();
    let out = view.new_response_outparam(set)?;
    let mut guest = std::pin::pin!(proxy.wasi_http_incoming_handler().call_handle(&mut lease.store, request, out));
    // The guest sets its response some time before it ends.
    tokio::select! {
        biased;
        ended = &mut guest => {
            // What it answered before it failed is still its answer; the failure is the body's.
            match answer.try_recv() {
                Ok(Ok(answer)) => drop(response.send(answer)),
                Ok(Err(code)) => return Err(ended.map_or_else(Fault::Wasm, |()| refused(&code).into())),
                Err(_) => return Err(ended.map_or_else(Fault::Wasm, |()| no_response().into())),
            }
            ended?;
            read.await
        }
        answer = &mut answer => {
            let answer = answer.map_err(|_| no_response())?;
            let _ = response.send(answer.map_err(|code| refused(&code))?);
            try_join(async { guest.await.map_err(Fault::Wasm) }, read).await.map(drop)
        }
    }
}

/// The same in an instance that the call shares.
pub(crate) async fn serve_among(
    part: Part<'_>,
    entry: &Entry,
    request: Request,
    response: oneshot::Sender<Response>,
    read: oneshot::Receiver<Result<()>>,
) -> Result<(), Fault> {
    let Entry::Http03(indices) = entry else {
        return Err(Error::new(ErrorKind::Internal, "it shares no instance; please report this").into());
    };
    let read = async { read.await.unwrap_or(Ok(())).map_err(Fault::Own) };
    let accessor = part.accessor();
    let service = accessor.with(|mut access| indices.load(&mut access, &part.instance()))?;
    serve_03(accessor, &service, Some(part), request, response, read).await
}

async fn serve_03(
    accessor: &Accessor<State>,
    service: &p3::bindings::Service,
    part: Option<Part<'_>>,
    request: Request,
    response: oneshot::Sender<Response>,
    read: impl Future<Output = Result<(), Fault>>,
) -> Result<(), Fault> {
    let (request, sent) = accessor.with(|mut access| {
        let view = access.get().own_view().http();
        let (request, sent) = p3::Request::from_http(view.hooks, request);
        let sent: Pin<Box<dyn Future<Output = Result<(), HttpError>> + Send>> = Box::pin(sent);
        wasmtime::error::Ok((view.table.push(request)?, sent))
    })?;
    let handler = service.wasi_http_handler();
    let answer = match part {
        Some(part) => part.call_typed(handler.func_handle(), (request,)).await?.0,
        None => handler.call_handle(accessor, request).await?,
    };
    let answer = answer.map_err(|code| refused(&code))?;
    let answer = accessor.with(|mut access| {
        let answer = access.get().own_view().http().table.delete(answer)?;
        answer.into_http_with_getter(&mut access, sent, State::http)
    })?;
    let _ = response.send(answer);
    read.await
}

fn no_response() -> Error {
    Error::new(ErrorKind::Exited, "the guest ended without setting a response; report it to the guest's author")
}

fn refused(code: &impl std::fmt::Debug) -> Error {
    Error::new(ErrorKind::Exited, format!("the guest answered with the error {code:?} instead of a response"))
}
