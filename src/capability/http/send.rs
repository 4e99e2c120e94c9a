//! One exchange: a guest's request is checked, sent, and its response handed back, both counted and timed.

use super::connect::{HttpClient, Unreachable};
use super::egress::{self, Reason, Refusal, Target};
use super::inject::{self, Place};
use super::{Egress, HttpBounds};
use crate::capability::secrets::scrub::{Piecewise, Scrubber};
use crate::capability::secrets::{Keyring, Placeholders, SecretValue};
use crate::denial::{Denial, Denials};
use crate::future::BoxFuture;
use crate::text::{quoted, sanitise};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// Bytes of an http body that a guest may write at once. Each body holds up to two chunks that nobody read yet, in the
/// host's memory and not in the guest's.
const MAX_CHUNK: usize = 64 * 1024;

/// The way out of one call.
pub(crate) struct Outgoing {
    egress: Option<Arc<Egress>>,
    keyring: Option<Arc<Keyring>>,
    tenant: Option<Arc<str>>,
    denials: Denials,
    /// What stands for secrets in the guest's headers.
    pub(crate) placeholders: Placeholders,
    /// For each grant, made with the first request.
    in_flight: Vec<Arc<Semaphore>>,
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sending = Box<dyn Future<Output = Result<(Response<WasiBody>, Io), Error>> + Send>;

impl Outgoing {
    pub(crate) fn new(
        egress: Option<Arc<Egress>>,
        keyring: Option<Arc<Keyring>>,
        tenant: Option<Arc<str>>,
        denials: Denials,
    ) -> Outgoing {
        Outgoing { egress, keyring, tenant, denials, placeholders: Placeholders::default(), in_flight: Vec::new() }
    }

    /// Another call begins in the same instance. What it has in flight still counts.
    pub(in crate::capability) fn begin(&mut self, denials: &Denials) {
        self.denials = denials.clone();
    }

    /// Sends a request, which waits as long as too many of the call are under way.
    pub(in crate::capability) fn send_in_turn(
        &mut self,
        request: Request<WasiBody>,
    ) -> BoxFuture<'static, Result<Response<WasiBody>, Error>> {
        let admitted = self.admit(request);
        Box::pin(async move {
            let (exchange, places) = admitted?;
            let place = tokio::time::timeout(exchange.bounds.timeout, places.acquire_owned()).await;
            // It is never closed.
            let place = place.map_err(|_| Error::HttpResponseTimeout)?.map_err(|_| Error::ConnectionLimitReached)?;
            Ok(exchange.run(RequestOptions::default(), place).await?.0)
        })
    }

    /// Decides about a request, and where it takes a place. Nothing is sent.
    fn admit(&mut self, request: Request<WasiBody>) -> Result<(Exchange, Arc<Semaphore>), Error> {
        let Some(egress) = &self.egress else { return Err(Error::HttpRequestDenied) };
        let uri = request.uri();
        let (scheme, authority) = (uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |a| a.as_str()));
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let checked = egress::check(&egress.rules, request.method(), scheme, authority, path);
        let needed = checked.and_then(|target| match &egress.needs {
            Some(needs) => egress::check_needs(needs, &target).map(|()| target),
            None => Ok(target),
        });
        let target = needed.map_err(|refusal| {
            self.denials.push(denial(&asked(request.method(), uri), &refusal));
            match refusal.reason {
                Reason::Method => Error::HttpRequestMethodInvalid,
                Reason::TooLong => Error::HttpRequestUriTooLong,
                Reason::NoHost | Reason::Characters | Reason::Host | Reason::Port | Reason::Path => {
                    Error::HttpRequestUriInvalid
                }
                _ => Error::HttpRequestDenied,
            }
        })?;
        if self.in_flight.is_empty() {
            let places = egress.bounds.iter().map(|bounds| Arc::new(Semaphore::new(bounds.in_flight as usize)));
            self.in_flight = places.collect();
        }
        // The first of the rules that allow it, in the order of the grants.
        let rule = target.rules.first().copied().unwrap_or(0);
        let (Some(place), Some(bounds)) = (self.in_flight.get(rule), egress.bounds.get(rule)) else {
            return Err(Error::HttpRequestDenied);
        };
        let used = self.placeholders.iter().filter(|(_, text)| inject::holds(request.headers(), text));
        let used: Vec<(usize, String)> = used.map(|(secret, text)| (secret, text.to_owned())).collect();
        if let Some((secret, _)) = used.iter().find(|(secret, _)| !egress.lets_put(rule, *secret)) {
            let name = self.keyring.as_ref().map_or("", |keyring| keyring.name(*secret));
            self.denials.push(egress.misplaced(rule, name, &asked(request.method(), request.uri())));
            return Err(Error::HttpRequestDenied);
        }
        let places = Arc::clone(place);
        let exchange = Exchange {
            request,
            bounds: *bounds,
            rule,
            placeholders: used,
            egress: Arc::clone(egress),
            keyring: self.keyring.clone(),
            tenant: self.tenant.clone(),
            target,
            client: egress.clients.of(self.tenant.as_ref()),
            denials: self.denials.clone(),
        };
        Ok((exchange, places))
    }
}

impl WasiHttpHooks for Outgoing {
    /// The name that was checked is the one that is sent.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        MAX_CHUNK
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        MAX_CHUNK
    }

    fn send_request(&mut self, request: Request<WasiBody>, options: Option<RequestOptions>, _: Io) -> Sending {
        let sent = self.admit(request).and_then(|(exchange, places)| {
            let place = places.try_acquire_owned().map_err(|_| Error::ConnectionLimitReached)?;
            Ok(exchange.run(options.unwrap_or_default(), place))
        });
        match sent {
            Ok(sent) => Box::new(sent),
            Err(error) => Box::new(std::future::ready(Err(error))),
        }
    }
}

/// A request that may be sent.
struct Exchange {
    request: Request<WasiBody>,
    target: Target,
    bounds: HttpBounds,
    egress: Arc<Egress>,
    keyring: Option<Arc<Keyring>>,
    tenant: Option<Arc<str>>,
    /// The one that allows it.
    rule: usize,
    /// Those that stand in its headers, and their secrets.
    placeholders: Vec<(usize, String)>,
    client: HttpClient,
    denials: Denials,
}

impl Exchange {
    async fn run(
        mut self,
        options: RequestOptions,
        place: OwnedSemaphorePermit,
    ) -> Result<(Response<WasiBody>, Io), Error> {
        let bounds = self.bounds;
        let ends = Instant::now() + bounds.timeout;
        let asked = asked(self.request.method(), self.request.uri());
        let exchange = async {
            let sent = self.inject().await.ok_or(Error::ConfigurationError)?;
            let Exchange { request, target, client, denials, keyring, tenant, .. } = self;
            let (mut parts, body) = request.into_parts();
            let uri = Uri::builder().scheme(target.scheme.as_str()).authority(&*target.authority);
            let uri = uri.path_and_query(&*target.path_and_query);
            parts.uri = uri.build().map_err(|_| Error::HttpRequestUriInvalid)?;
            parts.headers.remove(header::HOST);
            let body = Bounded { body, left: bounds.request_bytes, limit: bounds.request_bytes };
            let request = Request::from_parts(parts, body.boxed_unsync());
            let response = client.request(request).await.map_err(|error| {
                let found = explain(&error);
                if let Cause::Prohibited(address) = found
                    && let Err(refusal) = target.check_address(address)
                {
                    denials.push(denial(&asked, &refusal));
                }
                Error::from(found)
            })?;
            // With values that came up meanwhile.
            let scrubber = keyring.map(|keyring| keyring.scrubber(tenant.as_ref(), &sent)).unwrap_or_default();
            Ok::<_, Error>((response, scrubber))
        };
        let answered = tokio::time::timeout(until_head(options, bounds.timeout), exchange).await;
        let (mut response, scrubber) = answered.map_err(|_| Error::HttpResponseTimeout)??;
        if !scrubber.is_empty() && is_encoded(&response) {
            return Err(Error::HttpResponseContentCoding(None));
        }
        scrub(response.headers_mut(), &scrubber);
        let response = response.map(|body| {
            let body = Inflow {
                body,
                left: bounds.response_bytes,
                limit: bounds.response_bytes,
                ends: Box::pin(tokio::time::sleep_until(ends)),
                pause: options.between_bytes_timeout.map(|pause| (pause, Box::pin(tokio::time::sleep(pause)))),
                _place: place,
            };
            match scrubber.is_empty() {
                true => body.boxed_unsync(),
                false => {
                    let (pieces, idle) = (Piecewise::default(), Box::pin(tokio::time::sleep(IDLE)));
                    Scrubbed { body, scrubber, pieces, idle, last: None }.boxed_unsync()
                }
            }
        });
        Ok((response, Box::new(std::future::ready(Ok(())))))
    }

    /// Puts the secrets into the request, and gives them. None if one cannot be had, or cannot stand where it is to stand.
    async fn inject(&mut self) -> Option<Vec<(usize, SecretValue)>> {
        let Exchange { request, target, egress, keyring, tenant, rule, placeholders, .. } = self;
        let tenant = tenant.as_ref();
        let Some(keyring) = keyring else { return Some(Vec::new()) };
        let mut sent = Vec::new();
        for injection in egress.injections.get(*rule).into_iter().flatten() {
            if injection.place != Place::Placeholder {
                let value = keyring.read(injection.secret, tenant).await.ok()?;
                injection.place.put(&value, request.headers_mut(), &mut target.path_and_query)?;
                sent.push((injection.secret, value));
            }
        }
        for (secret, placeholder) in placeholders {
            let value = keyring.read(*secret, tenant).await.ok()?;
            inject::replace(request.headers_mut(), placeholder, &value)?;
            sent.push((*secret, value));
        }
        if !keyring.scrubber(tenant, &sent).is_empty() {
            // Nothing is found in what is compressed, or cut into parts that are shorter than a secret.
            for name in [header::ACCEPT_ENCODING, header::TE, header::RANGE, header::IF_RANGE] {
                request.headers_mut().remove(name);
            }
        }
        Some(sent)
    }
}

impl Egress {
    /// Whether the guest may put that secret into headers of requests by that rule.
    fn lets_put(&self, rule: usize, secret: usize) -> bool {
        let injections = self.injections.get(rule).into_iter().flatten();
        injections.into_iter().any(|known| known.place == Place::Placeholder && known.secret == secret)
    }

    fn misplaced(&self, rule: usize, secret: &str, asked: &str) -> Denial {
        let name = quoted(&sanitise(secret, 64));
        let origin = self.rules.get(rule).map_or("", egress::Rule::origin);
        let denial = Denial::new(
            &format!("secret {name} in {asked}"),
            &format!("the rule for {origin} is not granted the secret"),
        );
        denial.allowed_by(
            &format!("`.secret(Secret::of_host({name}))` at the grant Http::to(\"{origin}\")"),
            Some(&format!("http = [{{ to = \"{origin}\", secret = {name} }}]")),
        )
    }
}

/// Whether a body is something else than its bytes, or a part of them, though nobody asked for that.
fn is_encoded<B>(response: &Response<B>) -> bool {
    let other_than = |name, plain: &str| {
        let mut values = response.headers().get_all(name).into_iter();
        values.any(|value| !value.as_bytes().eq_ignore_ascii_case(plain.as_bytes()))
    };
    let partial = [StatusCode::PARTIAL_CONTENT, StatusCode::IM_USED].contains(&response.status());
    partial || other_than(header::CONTENT_ENCODING, "identity") || other_than(header::TRANSFER_ENCODING, "chunked")
}

/// Takes secrets out of headers or trailers.
fn scrub(headers: &mut HeaderMap, scrubber: &Scrubber) {
    if scrubber.is_empty() {
        return;
    }
    let named: Vec<_> = headers.keys().filter(|name| scrubber.is_in_name(name.as_str())).cloned().collect();
    named.into_iter().for_each(|name| drop(headers.remove(name)));
    for value in headers.values_mut() {
        let mut text = value.as_bytes().to_vec();
        if scrubber.mask(&mut text) {
            *value = HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("*"));
        }
    }
}

/// How long the head of a response may take: as the guest says, within the grant's time. What it does not say, it does
/// not narrow.
fn until_head(options: RequestOptions, timeout: Duration) -> Duration {
    let part = |narrower: Option<Duration>| narrower.unwrap_or(timeout);
    timeout.min(part(options.connect_timeout).saturating_add(part(options.first_byte_timeout)))
}

fn denial(asked: &str, refusal: &Refusal) -> Denial {
    let denial = Denial::new(asked, refusal.rule());
    match refusal.allow() {
        Some((rust, toml)) => denial.allowed_by(&format!("`{rust}`"), Some(&toml)),
        None => denial,
    }
}

/// A request in short. Without what may be a secret: a password before the host, and the query.
fn asked(method: &Method, uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("http {method} {}://{host}{}", uri.scheme_str().unwrap_or_default(), uri.path())
}

/// Why there is no response, as far as a guest or a person can do something about it.
enum Cause {
    Prohibited(IpAddr),
    Guest(Error),
}

impl From<Cause> for Error {
    fn from(cause: Cause) -> Error {
        match cause {
            Cause::Prohibited(_) => Error::DestinationIpProhibited,
            Cause::Guest(error) => error,
        }
    }
}

/// The client's errors are boxes in boxes; what matters is somewhere within.
fn explain(error: &(dyn StdError + 'static)) -> Cause {
    let mut next = Some(error);
    while let Some(link) = next {
        // An io::Error passes over what it holds when it is asked for its source.
        next = match link.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(held) => Some(held),
            None => link.source(),
        };
        if let Some(unreachable) = link.downcast_ref::<Unreachable>() {
            return match unreachable {
                Unreachable::Prohibited(address) => Cause::Prohibited(*address),
                Unreachable::Resolve(_) | Unreachable::NoAddress => {
                    Cause::Guest(Error::DnsError { rcode: None, info_code: None })
                }
                Unreachable::TooMany => Cause::Guest(Error::ConnectionLimitReached),
                Unreachable::Connect(error) => Cause::Guest(match error.kind() {
                    io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
                    io::ErrorKind::TimedOut => Error::ConnectionTimeout,
                    _ => Error::DestinationUnavailable,
                }),
            };
        }
        if let Some(tls) = link.downcast_ref::<rustls::Error>() {
            return Cause::Guest(match tls {
                rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
                _ => Error::TlsProtocolError,
            });
        }
        if let Some(own) = link.downcast_ref::<Error>()
            && let Error::HttpRequestBodySize(size) = own
        {
            return Cause::Guest(Error::HttpRequestBodySize(*size));
        }
        if let Some(hyper) = link.downcast_ref::<hyper::Error>() {
            if hyper.is_parse_too_large() {
                return Cause::Guest(Error::HttpResponseHeaderSectionSize(None));
            }
            if hyper.is_incomplete_message() || hyper.is_closed() {
                return Cause::Guest(Error::HttpResponseIncomplete);
            }
        }
    }
    Cause::Guest(Error::HttpProtocolError)
}

/// A request's body, up to its limit.
struct Bounded {
    body: WasiBody,
    left: u64,
    limit: u64,
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        let this = &mut *self;
        match this.left.checked_sub(size(&frame)) {
            Some(left) => this.left = left,
            None => return Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(this.limit))))),
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// A response's body, up to its limits. It holds its place among the requests under way.
struct Inflow {
    body: Incoming,
    left: u64,
    limit: u64,
    ends: Pin<Box<Sleep>>,
    /// How long the guest waits for the next piece.
    pause: Option<(Duration, Pin<Box<Sleep>>)>,
    _place: OwnedSemaphorePermit,
}

impl Body for Inflow {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if this.ends.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(Error::HttpResponseTimeout)));
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some((pause, sleep)) = &mut this.pause {
                    sleep.as_mut().reset(Instant::now() + *pause);
                }
                match this.left.checked_sub(size(&frame)) {
                    Some(left) => this.left = left,
                    None => return Poll::Ready(Some(Err(Error::HttpResponseBodySize(Some(this.limit))))),
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(explain(&error).into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let paused = this.pause.as_mut().is_some_and(|(_, sleep)| sleep.as_mut().poll(cx).is_ready());
                if paused { Poll::Ready(Some(Err(Error::ConnectionReadTimeout))) } else { Poll::Pending }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// How long the end of what came of a body may wait for more, so that a secret in two pieces is seen.
const IDLE: Duration = Duration::from_millis(100);

/// A response's body without the values of secrets.
struct Scrubbed {
    body: Inflow,
    scrubber: Arc<Scrubber>,
    pieces: Piecewise,
    /// How long what is held back waits for more. A server that says something now and then is heard.
    idle: Pin<Box<Sleep>>,
    /// What came after the data, and waits for what was held back of it.
    last: Option<Option<Result<Frame<Bytes>, Error>>>,
}

impl Body for Scrubbed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        loop {
            if let Some(last) = this.last.take() {
                return Poll::Ready(last);
            }
            let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
                if this.pieces.held() > 0 && this.idle.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Some(Ok(Frame::data(this.pieces.finish()))));
                }
                return Poll::Pending;
            };
            let data = match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    let data = this.pieces.push(&this.scrubber, &data);
                    this.idle.as_mut().reset(Instant::now() + IDLE);
                    if data.is_empty() {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Ok(Err(mut other))) => {
                    if let Some(trailers) = other.trailers_mut() {
                        scrub(trailers, &this.scrubber);
                    }
                    Some(Ok(other))
                }
                // What was held back is lost with what would have followed it.
                Some(Err(error)) => {
                    this.pieces = Piecewise::default();
                    return Poll::Ready(Some(Err(error)));
                }
                None => None,
            };
            this.last = Some(data);
            let held = this.pieces.finish();
            if !held.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(held))));
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, held) = (self.body.size_hint(), self.pieces.held() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(held));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.pieces.held() == 0 && self.body.is_end_stream()
    }
}

/// Bytes of a frame: trailers count as well.
fn size(frame: &Frame<Bytes>) -> u64 {
    let data = frame.data_ref().map_or(0, |data| data.len());
    let trailers = frame
        .trailers_ref()
        .map_or(0, |fields| fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum());
    (data + trailers) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_narrows_the_time_and_never_widens_it() {
        let (short, timeout) = (Duration::from_secs(1), Duration::from_secs(30));
        for (connect, first, expected) in [
            (None, None, timeout),
            (Some(short), None, timeout),
            (None, Some(short), timeout),
            (Some(short), Some(short), short * 2),
            (Some(Duration::MAX), Some(Duration::MAX), timeout),
        ] {
            let options = RequestOptions { connect_timeout: connect, first_byte_timeout: first, ..Default::default() };
            assert_eq!(until_head(options, timeout), expected, "{options:?}");
        }
    }
}
