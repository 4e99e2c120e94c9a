//! What scripts have their host do while they go on: begun, waited for, and over.

use super::fetch::{self, Bodies, Body, Piece};
use crate::bindings::capabilities::isopod::secrets::secrets::Error as SecretError;
use crate::bindings::keyvalue::Failure;
use crate::bindings::script::isopod::script::tasks as wit;
use crate::capability::functions::{self, Unanswered};
use crate::capability::keyvalue::Use;
use crate::capability::{Functions, Reach, View};
use crate::error::ErrorKind;
use crate::future::BoxFuture;
use futures_util::future::{AbortHandle, abortable};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use http::Response;
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::Semaphore;
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

/// What a script began and has not ended.
#[derive(Default)]
pub(in crate::capability) struct Tasks {
    begun: u32,
    running: FuturesUnordered<BoxFuture<'static, Option<(u32, Ended)>>>,
    /// Those that somebody waits for, with the bytes that were given for them.
    awaited: HashMap<u32, (Option<AbortHandle>, usize)>,
    /// Those that are over already, in the order in which they ended.
    over: VecDeque<(u32, wit::Outcome)>,
    bodies: Bodies,
    /// Calls of other functions. One runs at a time: each may use what the one before it left of the caller's fuel. None is
    /// given up, as it is paid for at its end.
    calls: VecDeque<Invocation>,
    calling: Option<BoxFuture<'static, (u32, Ended)>>,
    /// Bytes that the host has of what was begun, and of what came of it.
    held: usize,
    places: Places,
}

/// Where operations on buckets wait for each other: what they give is in the host before it is asked for.
struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Places {
        Places(Arc::new(Semaphore::new(16)))
    }
}

/// Bytes that the host may have so before no more is begun: as many as a guest may pass to it at once by default.
const MAX_HELD: usize = 4 * 1024 * 1024;

struct Invocation {
    id: u32,
    grant: Functions,
    export: String,
    /// As JSON: what it is made of takes many times as much.
    arguments: String,
}

/// How something ended that was begun.
enum Ended {
    Slept,
    Answered(Result<Response<WasiBody>, HttpError>),
    Read(u32, Body, Option<Result<Piece, HttpError>>),
    Kept(Result<wit::Outcome, Failure>),
    Secret(Result<wit::Outcome, SecretError>),
    /// With the fuel that it used.
    Called(Result<Value, Unanswered>, u64),
}

/// What becomes of something that is to begin.
enum Begun {
    Over(wit::Outcome),
    Runs(BoxFuture<'static, Ended>),
    Calls(Functions, String, String),
}

pub(super) fn link<T: Reach>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    let mut tasks = linker.instance("isopod:script/tasks@0.1.0")?;
    tasks.func_wrap("begin", |mut store: StoreContextMut<'_, T>, (task,): (wit::Task,)| {
        Ok((store.data_mut().view().begin_task(task),))
    })?;
    tasks.func_wrap("cancel", |mut store: StoreContextMut<'_, T>, (begun,): (u32,)| {
        store.data_mut().view().cancel_task(begun);
        Ok(())
    })?;
    tasks.func_wrap("discard", |mut store: StoreContextMut<'_, T>, (body,): (u32,)| {
        drop(store.data_mut().view().tasks.bodies.take(body));
        Ok(())
    })?;
    tasks.func_wrap_async("wait", |mut store: StoreContextMut<'_, T>, (): ()| {
        Box::new(async move {
            store.data_mut().view();
            Ok((wait(&mut store).await?,))
        })
    })
}

/// Waits until one is over.
async fn wait<T: Reach>(store: &mut StoreContextMut<'_, T>) -> wasmtime::Result<Option<(u32, wit::Outcome)>> {
    // An error says that this engine does not count fuel.
    let counts = store.get_fuel().is_ok();
    // Whose sleeps are over when somebody looks: those of no length are over first.
    let is_simulated = store.data_mut().own_view().watch.is_simulated();
    let mut waited = false;
    loop {
        call_next(store);
        let tasks = &mut store.data_mut().own_view().tasks;
        // What a script counts of fuel is the called function's until that has ended, so that neither uses it twice.
        if !(counts && tasks.calling.is_some())
            && let Some(over) = tasks.over.pop_front()
        {
            tasks.held -= size(&over.1);
            if !waited {
                // A script that does nothing but what is over at once gives way, also to what else it began.
                tokio::task::yield_now().await;
                if !is_simulated && let Poll::Ready(Some(ended)) = poll_fn(|cx| Poll::Ready(tasks.poll(cx))).await {
                    settle(store, ended)?;
                }
            }
            return Ok(Some(over));
        }
        // Bodies come in too, but by themselves they go on with nothing.
        if tasks.awaited.is_empty() && tasks.calling.is_none() {
            return Ok(None);
        }
        if let Some(ended) = poll_fn(|cx| tasks.poll(cx)).await {
            settle(store, ended)?;
        }
        waited = true;
    }
}

/// Keeps what became of it for the script, if that waits for it.
fn settle<T: Reach>(store: &mut StoreContextMut<'_, T>, (id, ended): (u32, Ended)) -> wasmtime::Result<()> {
    if let Ended::Called(_, used) = &ended
        && let Ok(fuel) = store.get_fuel()
    {
        store.set_fuel(fuel.saturating_sub(*used))?;
    }
    store.data_mut().own_view().keep(id, ended);
    Ok(())
}

/// Begins the next call of another function, if none runs.
fn call_next<T: Reach>(store: &mut StoreContextMut<'_, T>) {
    loop {
        let tasks = &mut store.data_mut().own_view().tasks;
        if tasks.calling.is_some() {
            return;
        }
        let Some(Invocation { id, grant, export, arguments }) = tasks.calls.pop_front() else { return };
        let fuel = store.get_fuel().ok();
        let begun = functions::arguments(&arguments)
            .and_then(|arguments| functions::begin(store.data_mut(), &grant, export, arguments, fuel));
        let tasks = &mut store.data_mut().own_view().tasks;
        match begun {
            Ok(answering) => {
                tasks.calling = Some(Box::pin(answering.map(move |(answer, used)| (id, Ended::Called(answer, used)))));
            }
            Err(unanswered) => {
                if tasks.release(id) {
                    tasks.end(id, unanswered.into());
                }
            }
        }
    }
}

impl Tasks {
    /// Whether no more may be begun, with that many bytes.
    fn is_full(&self, size: usize, max_handles: usize) -> bool {
        let count = self.running.len() + self.calls.len() + self.over.len() + self.bodies.len();
        count >= max_handles || (self.held > 0 && self.held + size > MAX_HELD)
    }

    /// What ended next; nothing, if that is not for the script.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<(u32, Ended)>> {
        if let Some(Poll::Ready(called)) = self.calling.as_mut().map(|calling| calling.poll_unpin(cx)) {
            self.calling = None;
            return Poll::Ready(Some(called));
        }
        match self.running.poll_next_unpin(cx) {
            Poll::Ready(None) if self.calling.is_some() => Poll::Pending,
            ended => ended.map(Option::flatten),
        }
    }

    /// Nobody waits for it any more; whether somebody did.
    fn release(&mut self, id: u32) -> bool {
        let released = self.awaited.remove(&id);
        self.held -= released.as_ref().map_or(0, |(_, size)| *size);
        released.is_some()
    }

    fn end(&mut self, id: u32, outcome: wit::Outcome) {
        self.held += size(&outcome);
        self.over.push_back((id, outcome));
    }
}

/// What one of many small parts takes besides its bytes.
const PART: usize = 96;

fn fields(headers: &[(String, String)]) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.len() + PART).sum()
}

/// Bytes that the host has of it.
fn size(outcome: &wit::Outcome) -> usize {
    match outcome {
        wit::Outcome::Bytes(bytes) => bytes.len(),
        wit::Outcome::Json(json) => json.len(),
        wit::Outcome::Page(page) => page.keys.iter().map(|key| key.len() + PART).sum(),
        wit::Outcome::Response(response) => fields(&response.headers),
        _ => 0,
    }
}

/// Bytes that were given for it.
fn given(task: &wit::Task) -> usize {
    match task {
        wit::Task::Fetch(wit::Request { method, url, headers, body }) => {
            method.len() + url.len() + fields(headers) + body.as_ref().map_or(0, Vec::len)
        }
        wit::Task::Get(entry) | wit::Task::Delete(entry) | wit::Task::Increment((entry, _)) => entry.key.len(),
        wit::Task::Set((entry, value)) => entry.key.len() + value.len(),
        wit::Task::Scan(scan) => [&scan.prefix, &scan.after].into_iter().flatten().map(String::len).sum(),
        wit::Task::Equals((name, candidate)) => name.len() + candidate.len(),
        wit::Task::Reveal(name) => name.len(),
        wit::Task::Call(call) => call.export.len() + call.arguments.len(),
        wit::Task::Sleep(_) | wit::Task::Read(_) => 0,
    }
}

impl View {
    fn begin_task(&mut self, task: wit::Task) -> Option<u32> {
        let given = given(&task);
        if self.tasks.is_full(given, self.max_handles) {
            // Those that were given up go when they are looked at.
            self.sweep();
            if self.tasks.is_full(given, self.max_handles) {
                return None;
            }
        }
        let id = self.tasks.begun.wrapping_add(1);
        self.tasks.begun = id;
        match self.start(task) {
            Begun::Over(outcome) => self.tasks.end(id, outcome),
            Begun::Runs(task) => {
                let (task, abort) = abortable(task);
                let mut task: BoxFuture<'static, _> = Box::pin(task.map(move |ended| Some((id, ended.ok()?))));
                // It begins now, and not when somebody waits: of two that sleep, another would be over first.
                match task.as_mut().now_or_never() {
                    Some(Some((_, ended))) => {
                        let outcome = self.outcome(ended);
                        self.tasks.end(id, outcome);
                    }
                    Some(None) => {}
                    None => {
                        self.tasks.held += given;
                        self.tasks.awaited.insert(id, (Some(abort), given));
                        self.tasks.running.push(task);
                    }
                }
            }
            Begun::Calls(grant, export, arguments) => {
                self.tasks.held += given;
                self.tasks.awaited.insert(id, (None, given));
                self.tasks.calls.push_back(Invocation { id, grant, export, arguments });
            }
        }
        Some(id)
    }

    fn keep(&mut self, id: u32, ended: Ended) {
        if self.tasks.release(id) {
            let outcome = self.outcome(ended);
            self.tasks.end(id, outcome);
        }
    }

    /// Looks at what has ended meanwhile, as far as there is room for what came of it.
    fn sweep(&mut self) {
        while self.tasks.held < MAX_HELD
            && let Some(Some(ended)) = self.tasks.running.next().now_or_never()
        {
            if let Some((id, ended)) = ended {
                self.keep(id, ended);
            }
        }
    }

    fn cancel_task(&mut self, begun: u32) {
        let tasks = &mut self.tasks;
        if let Some(at) = tasks.over.iter().position(|(id, _)| *id == begun) {
            let over = tasks.over.remove(at);
            tasks.held -= over.map_or(0, |(_, outcome)| size(&outcome));
        }
        match tasks.awaited.get(&begun) {
            // It is not given up, and what was given for it stays.
            Some((None, _)) | None => {}
            Some((Some(abort), _)) => {
                abort.abort();
                if self.watch.is_simulated() {
                    // To look at others would move the clock: what was given for it is dropped later, and counts until the end.
                    tasks.awaited.remove(&begun);
                } else {
                    // Looked at once more it is dropped, with what was given for it.
                    tasks.release(begun);
                    self.sweep();
                }
            }
        }
    }

    fn start(&mut self, task: wit::Task) -> Begun {
        match task {
            wit::Task::Sleep(0) => Begun::Over(wit::Outcome::Nothing),
            wit::Task::Sleep(length) => {
                let mut until = self.watch.after(length);
                // Others go on meanwhile, so that it holds nothing.
                runs(async move {
                    until.over(false).await;
                    Ended::Slept
                })
            }
            wit::Task::Fetch(request) => match fetch::request(request) {
                Ok(request) => runs(self.outgoing.send_in_turn(request).map(Ended::Answered)),
                Err(why) => Begun::Over(failed("TypeError", why)),
            },
            wit::Task::Read(id) => match self.tasks.bodies.take(id) {
                Some(mut body) => runs(async move {
                    let piece = body.recv().await;
                    Ended::Read(id, body, piece)
                }),
                None => Begun::Over(failed("TypeError", "the body is being read already, or is at its end")),
            },
            wit::Task::Get(_)
            | wit::Task::Set(_)
            | wit::Task::Delete(_)
            | wit::Task::Increment(_)
            | wit::Task::Scan(_) => match self.operate(task) {
                Ok(task) => {
                    let places = Arc::clone(&self.tasks.places.0);
                    runs(async move {
                        // It is never closed.
                        let _place = places.acquire_owned().await;
                        task.await
                    })
                }
                Err(failure) => Begun::Over(self.refused(failure)),
            },
            wit::Task::Equals((name, candidate)) => match self.find_secret(&name) {
                Some(index) => {
                    let same = self.compare_secret(index, candidate);
                    runs(same.map(|same| Ended::Secret(same.map(wit::Outcome::Truth))))
                }
                None => Begun::Over(SecretError::Unknown.into()),
            },
            wit::Task::Reveal(name) => match self.find_secret(&name) {
                Some(index) => {
                    let value = self.reveal_secret(index);
                    runs(value.map(|value| Ended::Secret(value.map(wit::Outcome::Bytes))))
                }
                None => Begun::Over(SecretError::Unknown.into()),
            },
            wit::Task::Call(wit::Invocation { function, export, arguments }) => {
                match functions::grant(self, &function) {
                    Ok(grant) => Begun::Calls(grant, export, arguments),
                    Err(unanswered) => Begun::Over(unanswered.into()),
                }
            }
        }
    }

    /// An operation on a bucket.
    fn operate(&mut self, task: wit::Task) -> Result<BoxFuture<'static, Ended>, Failure> {
        use wit::Outcome;
        let buckets = self.keyvalue();
        let kept = |kept: Result<Outcome, Failure>| Ended::Kept(kept);
        Ok(match task {
            wit::Task::Get(wit::Entry { bucket, key }) => {
                let at = buckets.named(bucket.as_deref(), "get", Use::Read, [&key])?;
                let get = async move { at.get(&key).await };
                let value =
                    get.map(|entry| Ok(entry?.map_or(Outcome::Nothing, |entry| Outcome::Bytes(entry.value.into()))));
                Box::pin(value.map(kept))
            }
            wit::Task::Set((wit::Entry { bucket, key }, value)) => {
                let at = buckets.named(bucket.as_deref(), "set", Use::Write, [&key])?;
                Box::pin(async move { kept(at.set(key, value).await.map(|()| Outcome::Nothing)) })
            }
            wit::Task::Delete(wit::Entry { bucket, key }) => {
                let at = buckets.named(bucket.as_deref(), "delete", Use::Write, [&key])?;
                Box::pin(async move { kept(at.delete(vec![key]).await.map(|()| Outcome::Nothing)) })
            }
            wit::Task::Increment((wit::Entry { bucket, key }, by)) => {
                let at = buckets.named(bucket.as_deref(), "increment", Use::Write, [&key])?;
                Box::pin(async move { kept(at.add(key, by).await.map(Outcome::Number)) })
            }
            wit::Task::Scan(wit::Scan { bucket, prefix, after }) => {
                let at = buckets.named(bucket.as_deref(), "list-keys", Use::Read, &prefix)?;
                Box::pin(async move {
                    let page = at.page(prefix.as_deref(), after.as_deref().map(str::as_bytes)).await;
                    kept(page.map(|(keys, last)| Outcome::Page(wit::Page { keys, more: last.is_some() })))
                })
            }
            _ => return Err(Failure::AccessDenied),
        })
    }

    /// What the script is told.
    fn outcome(&mut self, ended: Ended) -> wit::Outcome {
        use wit::Outcome;
        match ended {
            Ended::Slept => Outcome::Nothing,
            Ended::Answered(Ok(response)) => {
                let (response, pump) = self.tasks.bodies.open(response);
                self.tasks.running.push(Box::pin(pump.map(|()| None)));
                Outcome::Response(response)
            }
            Ended::Answered(Err(error)) | Ended::Read(_, _, Some(Err(error))) => unsent(&error),
            Ended::Read(id, body, Some(Ok(piece))) => {
                self.tasks.bodies.put(id, body);
                Outcome::Bytes(piece.data.into())
            }
            Ended::Read(_, _, None) => Outcome::Nothing,
            Ended::Kept(Ok(outcome)) | Ended::Secret(Ok(outcome)) => outcome,
            Ended::Kept(Err(failure)) => self.refused(failure),
            Ended::Secret(Err(error)) => error.into(),
            Ended::Called(Ok(value), _) => Outcome::Json(value.to_string()),
            Ended::Called(Err(unanswered), _) => unanswered.into(),
        }
    }

    fn refused(&mut self, failure: Failure) -> wit::Outcome {
        match failure {
            Failure::AccessDenied => failed(DENIED, "the bucket or the key is not granted for this use"),
            Failure::Other(why) => failed("OperationError", why),
            Failure::Store(error) => failed("OperationError", self.keyvalue.failed(&error)),
            Failure::Trap(error) => failed("OperationError", error.to_string()),
        }
    }
}

fn runs(task: impl Future<Output = Ended> + Send + 'static) -> Begun {
    Begun::Runs(Box::pin(task))
}

/// The names of exceptions are those of the web: <https://webidl.spec.whatwg.org/#idl-DOMException>.
const DENIED: &str = "NotAllowedError";

fn failed(name: &str, why: impl Into<String>) -> wit::Outcome {
    wit::Outcome::Failed(wit::Failure { name: name.to_owned(), message: why.into() })
}

fn unsent(error: &HttpError) -> wit::Outcome {
    match error {
        HttpError::HttpRequestDenied | HttpError::DestinationIpProhibited => {
            failed(DENIED, "the request is not granted")
        }
        HttpError::HttpResponseTimeout | HttpError::ConnectionTimeout | HttpError::ConnectionReadTimeout => {
            failed("TimeoutError", "there was no answer in time")
        }
        // As `fetch` has it.
        other => failed("TypeError", format!("the request failed: {other}")),
    }
}

impl From<SecretError> for wit::Outcome {
    fn from(error: SecretError) -> wit::Outcome {
        match error {
            SecretError::Unknown => failed(DENIED, "no secret of that name is granted"),
            SecretError::Hidden => failed(DENIED, "the secret is granted for other uses only"),
            SecretError::Unavailable => failed("OperationError", "the secret cannot be had now; try again later"),
        }
    }
}

impl From<Unanswered> for wit::Outcome {
    fn from(Unanswered { kind, text }: Unanswered) -> wit::Outcome {
        let name = match kind {
            ErrorKind::Denied => DENIED,
            ErrorKind::WrongExport | ErrorKind::WrongArguments => "TypeError",
            ErrorKind::TimedOut => "TimeoutError",
            ErrorKind::Overloaded | ErrorKind::LimitExceeded(_) => "QuotaExceededError",
            _ => "OperationError",
        };
        failed(name, text)
    }
}
