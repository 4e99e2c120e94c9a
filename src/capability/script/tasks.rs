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
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

/// What a script began and has not ended.
#[derive(Default)]
pub(in crate::capability) struct Tasks {
    begun: u32,
    running: FuturesUnordered<BoxFuture<'static, Option<(u32, Ended)>>>,
    /// How to give up those that run. What another function computes is not given up, as it is paid for at its end.
    aborts: HashMap<u32, Option<AbortHandle>>,
    /// Those that are over already, in the order in which they ended.
    over: VecDeque<(u32, wit::Outcome)>,
    bodies: Bodies,
    /// Calls of other functions. One runs at a time: each may use what the one before it left of the caller's fuel.
    calls: VecDeque<Invocation>,
    calling: bool,
}

struct Invocation {
    id: u32,
    grant: Functions,
    export: String,
    arguments: Value,
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
    Calls(Functions, String, Value),
}

pub(super) fn link<T: Reach>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    let mut tasks = linker.instance("isopod:script/tasks@0.1.0")?;
    tasks.func_wrap("begin", |mut store: StoreContextMut<'_, T>, (task,): (wit::Task,)| {
        Ok((store.data_mut().view().begin_task(task),))
    })?;
    tasks.func_wrap("cancel", |mut store: StoreContextMut<'_, T>, (begun,): (u32,)| {
        store.data_mut().view().tasks.cancel(begun);
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
    loop {
        call_next(store);
        let tasks = &mut store.data_mut().own_view().tasks;
        if let Some(over) = tasks.over.pop_front() {
            // A script that does nothing but what is over at once gives way.
            tokio::task::yield_now().await;
            return Ok(Some(over));
        }
        // Bodies come in too, but by themselves they go on with nothing.
        if tasks.aborts.is_empty() && !tasks.calling {
            return Ok(None);
        }
        let Some((id, ended)) = tasks.running.next().await.flatten() else { continue };
        if let Ended::Called(_, used) = &ended {
            tasks.calling = false;
            // An error says that this engine does not count.
            if let Ok(fuel) = store.get_fuel() {
                store.set_fuel(fuel.saturating_sub(*used))?;
            }
        }
        let view = store.data_mut().own_view();
        // Unless it was given up.
        if view.tasks.aborts.remove(&id).is_some() {
            return Ok(Some((id, view.outcome(ended))));
        }
    }
}

/// Begins the next call of another function, if none runs.
fn call_next<T: Reach>(store: &mut StoreContextMut<'_, T>) {
    loop {
        let tasks = &mut store.data_mut().own_view().tasks;
        if tasks.calling {
            return;
        }
        let Some(Invocation { id, grant, export, arguments }) = tasks.calls.pop_front() else { return };
        let fuel = store.get_fuel().ok();
        let begun = functions::begin(store.data_mut(), &grant, export, arguments, fuel);
        let tasks = &mut store.data_mut().own_view().tasks;
        match begun {
            Ok(answering) => {
                tasks.calling = true;
                tasks
                    .running
                    .push(Box::pin(answering.map(move |(answer, used)| Some((id, Ended::Called(answer, used))))));
            }
            Err(unanswered) if tasks.aborts.remove(&id).is_some() => tasks.over.push_back((id, unanswered.into())),
            Err(_) => {}
        }
    }
}

impl Tasks {
    fn count(&self) -> usize {
        self.aborts.len() + self.over.len() + self.bodies.len()
    }

    fn cancel(&mut self, begun: u32) {
        self.over.retain(|(id, _)| *id != begun);
        if let Some(Some(abort)) = self.aborts.remove(&begun) {
            abort.abort();
        }
    }
}

impl View {
    fn begin_task(&mut self, task: wit::Task) -> Option<u32> {
        if self.tasks.count() >= self.max_handles {
            return None;
        }
        let id = self.tasks.begun.wrapping_add(1);
        self.tasks.begun = id;
        match self.start(task) {
            Begun::Over(outcome) => self.tasks.over.push_back((id, outcome)),
            Begun::Runs(task) => {
                let (task, abort) = abortable(task);
                let mut task: BoxFuture<'static, _> = Box::pin(task.map(move |ended| Some((id, ended.ok()?))));
                // It begins now, and not when somebody waits: of two that sleep, another would be over first.
                match task.as_mut().now_or_never() {
                    Some(Some((_, ended))) => {
                        let outcome = self.outcome(ended);
                        self.tasks.over.push_back((id, outcome));
                    }
                    Some(None) => {}
                    None => {
                        self.tasks.aborts.insert(id, Some(abort));
                        self.tasks.running.push(task);
                    }
                }
            }
            Begun::Calls(grant, export, arguments) => {
                self.tasks.aborts.insert(id, None);
                self.tasks.calls.push_back(Invocation { id, grant, export, arguments });
            }
        }
        Some(id)
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
            | wit::Task::Scan(_) => match self.keep(task) {
                Ok(task) => Begun::Runs(task),
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
                match functions::parse(self, &function, &arguments) {
                    Ok((grant, arguments)) => Begun::Calls(grant, export, arguments),
                    Err(unanswered) => Begun::Over(unanswered.into()),
                }
            }
        }
    }

    /// An operation on a bucket.
    fn keep(&mut self, task: wit::Task) -> Result<BoxFuture<'static, Ended>, Failure> {
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
