//! Functions of kind [`http`](crate::Kind::Http): a request with a streaming body in, a streaming response out, in
//! process and without a socket.
//!
//! The call lives in the response's [`Body`]: reading the body is what drives the guest, and dropping it cancels the
//! call. The body ends when the guest has ended, so that an error after the response's head is still seen.

use crate::call::{self, CallOptions};
use crate::engine::http::{GuestBody, HttpError, serve};
use crate::error::{Error, ErrorKind, Limit, Result};
use crate::function::{Function, Kind};
use crate::usage::{Reply, Usage};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// A call that goes on while its response is read.
type Running = Pin<Box<dyn Future<Output = Result<Reply<()>>> + Send>>;

impl Function {
    /// Hands a request to a function of kind [`Http`](Kind::Http), and gives its response as soon as the head of it
    /// is there. A request without a host is for `localhost`.
    ///
    /// Read the response's body to its end: that drives the guest. The call's receipt is then in [`Body::usage`].
    ///
    /// # Errors
    /// [`ErrorKind::WrongExport`] for a function of another kind, [`ErrorKind::Exited`] for a guest that gave no
    /// response; then whatever ends a call. What happens after the head is an error of the body.
    pub async fn http<B>(&self, request: Request<B>) -> Result<Response<Body>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: fmt::Display,
    {
        self.require(Kind::Http, "http", "wasi:http/incoming-handler@0.2 or wasi:http/handler@0.3")?;
        let limits = &self.inner().blueprint.limits;
        let flow = Arc::new(Flow { max_in: limits.input, max_out: limits.output, ..Flow::default() });
        let (mut parts, body) = request.into_parts();
        if parts.uri.authority().is_none() && !parts.headers.contains_key(header::HOST) {
            parts.headers.insert(header::HOST, HeaderValue::from_static("localhost"));
        }
        let request =
            Request::from_parts(parts, Inflow { body: Box::pin(body), flow: Arc::clone(&flow) }.boxed_unsync());
        let (head, mut response) = oneshot::channel();
        let (read, was_read) = oneshot::channel();
        let function = self.clone();
        let counted = Arc::clone(&flow);
        let mut running: Running = Box::pin(async move {
            let inner = function.inner();
            call::run(inner, function.options(), None, async |lease| {
                let served = serve(lease, &inner.blueprint, request, head, was_read).await;
                let state = lease.store.data_mut();
                state.bytes_in = counted.read.load(Ordering::Relaxed);
                state.bytes_out = counted.written.load(Ordering::Relaxed);
                match counted.exceeded.load(Ordering::Relaxed) {
                    true => Err(too_much_input(counted.max_in).into()),
                    false => served,
                }
            })
            .await
        });
        let ended = tokio::select! {
            biased;
            ended = &mut running => ended,
            got = &mut response => {
                let Ok(got) = got else {
                    // The sender is gone, so the call is about to say why.
                    return Err(self.no_response(running.await));
                };
                return Ok(self.answer(got, running, read, flow));
            }
        };
        // The call is over; it may have answered before.
        match response.try_recv() {
            Ok(got) => Ok(self.answer(got, Box::pin(std::future::ready(ended)), read, flow)),
            Err(_) => Err(self.no_response(ended)),
        }
    }

    fn answer(
        &self,
        response: Response<GuestBody>,
        running: Running,
        read: oneshot::Sender<()>,
        flow: Arc<Flow>,
    ) -> Response<Body> {
        let function = Arc::clone(self.shared_name());
        response.map(|body| Body { body, running: Some(running), read: Some(read), flow, usage: None, function })
    }

    fn no_response(&self, ended: Result<Reply<()>>) -> Error {
        let silent = || Error::new(ErrorKind::Exited, "the guest gave no response; report it to the guest's author");
        ended.err().unwrap_or_else(|| silent().of(self.shared_name()))
    }
}

fn too_much_input(limit: u64) -> Error {
    Error::new(
        ErrorKind::LimitExceeded(Limit::Input),
        format!("the request's body has more than {limit} bytes; send less, or raise `Limits::input`"),
    )
}

/// Bytes of both bodies of one exchange.
#[derive(Default)]
struct Flow {
    read: AtomicU64,
    written: AtomicU64,
    max_in: u64,
    max_out: u64,
    exceeded: std::sync::atomic::AtomicBool,
}

/// The request's body, counted, as the guest reads it.
struct Inflow<B> {
    body: Pin<Box<B>>,
    flow: Arc<Flow>,
}

impl<B> http_body::Body for Inflow<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: fmt::Display,
{
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let frame = std::task::ready!(self.body.as_mut().poll_frame(cx));
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame.map_err(|e| HttpError::InternalError(Some(e.to_string())));
        let bytes = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
        let total = self.flow.read.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if total > self.flow.max_in {
            self.flow.exceeded.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err(HttpError::HttpRequestBodySize(Some(total)))));
        }
        Poll::Ready(Some(frame))
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// The body of a guest's response, and the call behind it. Dropping it before its end cancels the call.
pub struct Body {
    body: GuestBody,
    running: Option<Running>,
    /// Tells the call that the body was read to its end.
    read: Option<oneshot::Sender<()>>,
    flow: Arc<Flow>,
    usage: Option<Usage>,
    function: Arc<str>,
}

impl Body {
    /// The call's receipt, once the body was read to its end.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Reads the body to its end. Trailers are read and dropped.
    ///
    /// # Errors
    /// What ended the call, had it not ended well.
    pub async fn bytes(mut self) -> Result<Reply<Bytes>> {
        let mut all = bytes::BytesMut::new();
        while let Some(frame) = self.frame().await {
            if let Ok(data) = frame?.into_data() {
                all.extend_from_slice(&data);
            }
        }
        let usage = self.usage.unwrap_or_default();
        Ok(Reply { value: all.freeze(), usage, denials: Vec::new(), output: Default::default() })
    }

    /// Drives the call; notes its receipt, or says why it failed.
    fn drive(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let Poll::Ready(ended) = running.as_mut().poll(cx) else { return Ok(()) };
        self.running = None;
        self.usage = Some(match &ended {
            Ok(reply) => reply.usage,
            Err(error) => error.usage(),
        });
        ended.map(drop)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if let Err(error) = this.drive(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        if this.read.is_none() {
            // The body was read; only the call's own end is awaited.
            return if this.running.is_some() { Poll::Pending } else { Poll::Ready(None) };
        }
        match std::task::ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                let total = this.flow.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
                if total > this.flow.max_out {
                    this.running = None;
                    this.read = None;
                    let text = format!(
                        "its response has more than {} bytes; raise `Limits::output` if that is right",
                        this.flow.max_out
                    );
                    return Poll::Ready(Some(Err(Error::new(ErrorKind::OutputTooLarge, text).of(&this.function))));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.running = None;
                this.read = None;
                let error =
                    Error::new(ErrorKind::Exited, "the guest broke its response off").because([error.to_string()]);
                Poll::Ready(Some(Err(error.of(&this.function))))
            }
            None => {
                if let Some(read) = this.read.take() {
                    let _ = read.send(());
                }
                match this.drive(cx) {
                    Err(error) => Poll::Ready(Some(Err(error))),
                    Ok(()) if this.running.is_some() => Poll::Pending,
                    Ok(()) => Poll::Ready(None),
                }
            }
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("function", &self.function).field("usage", &self.usage).finish_non_exhaustive()
    }
}
