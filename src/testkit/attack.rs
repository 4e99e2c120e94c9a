//! Does to a host what a [`Case`] says, and tells what became of it.

use super::case::{Attack, Case, Figures, Guest, LONGEST, Wire};
use super::judge::{Ended, Fault, Outcome};
use super::promise::Promise;
use super::prove::{With, WithScript};
use crate::{
    CallOptions, Error, ErrorKind, Function, FunctionBuilder, Host, Language, Limits, LoadLimits, Result, Reuse, ms,
};
use futures_util::FutureExt;
use serde_json::{Value, json};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a guest is waited for that nothing stops.
const PATIENCE: Duration = Duration::from_secs(3);
/// The deadline of a call that is to leave something behind, however it ends.
const SOON: Duration = Duration::from_millis(50);
/// Calls that are made to wait in a line, at most.
const CROWD: u64 = 5_000;

/// What guests are tried with, besides their limits. What is for components alone has no effect on scripts: what compiles
/// them is isopod's own, and none of their instances is used again.
#[derive(Clone)]
pub(super) struct Terms {
    pub host: Host,
    pub load: LoadLimits,
    pub reuse: Option<Reuse>,
    pub with: Arc<With>,
    pub with_script: Arc<WithScript>,
}

/// A case and its function, to be run any number of times.
pub(super) struct Shot {
    pub case: Case,
    pub figures: Figures,
    pub is_script: bool,
    wire: Wire,
    function: Result<Function>,
    /// How long loading took.
    pub took: Duration,
}

impl Shot {
    /// Loads it.
    pub(super) async fn load(terms: &Terms, case: Case, theirs: &Figures) -> Result<Shot, Fault> {
        let wrong = |text: String| Fault::new(case.promise(), format!("{}: {text}", case.name()));
        let figures = case.figures(theirs);
        let filled = figures.filled().map_err(|error| wrong(error.to_string()))?;
        let limits = figures.limits().map_err(|error| wrong(error.to_string()))?;
        let (guest, wire) = ((case.guest)(&filled), Wire::default());
        let is_script = matches!(guest, Guest::Script(_));
        let (function, took) = match guest {
            Guest::Script(source) => {
                let builder = terms.host.script(case.name(), Language::JavaScript, source).limits(limits);
                let builder = (terms.with_script)(&case, (case.with_script)(builder));
                timed(builder.load()).await
            }
            guest => {
                let bytes = guest.bytes().map_err(wrong)?;
                timed(Shot::component(terms, &case, bytes, limits, &wire).load()).await
            }
        };
        Ok(Shot { figures: filled, is_script, function, wire, took, case })
    }

    fn component(terms: &Terms, case: &Case, bytes: Vec<u8>, limits: Limits, wire: &Wire) -> FunctionBuilder {
        let builder = terms.host.function(case.name()).component_bytes(bytes).limits(limits);
        let mut builder = (case.with)(builder.load_limits(terms.load.clone()), wire);
        if let Some(reuse) = terms.reuse.clone().filter(|_| matches!(case.attack, Attack::Again)) {
            builder = builder.reuse(reuse);
        }
        (terms.with)(case, builder)
    }

    /// Whether loading was all of it.
    pub(super) fn is_load(&self) -> bool {
        self.function.is_err() || matches!(self.case.attack, Attack::Load | Attack::Describe)
    }

    /// Whether it takes seats from others.
    pub(super) fn is_crowd(&self) -> bool {
        matches!(self.case.attack, Attack::Crowd | Attack::Queue | Attack::Wait)
    }

    /// Attacks.
    pub(super) async fn fire(&self, host: &Host) -> Outcome {
        let function = match &self.function {
            Ok(function) => function.tenant(self.case.name()),
            Err(error) => return Outcome::failed(error, self.took, self.wire.far()),
        };
        match self.case.attack {
            Attack::Load => self.done(json!("a function that loads"), self.took),
            Attack::Describe => {
                let started = Instant::now();
                let all: usize = function.exports().iter().map(|export| export.json_schema().to_string().len()).sum();
                self.done(json!(all), started.elapsed())
            }
            Attack::Call(args) => self.call(&function, args(&self.figures)).await,
            Attack::Again => {
                // New ones each time: what one tenant left, it may find, where instances are kept.
                let tenants = ["one", "another"].map(|name| function.tenant(format!("{name} {}", self.wire.next())));
                let mut last = self.call(&tenants[0].deadline(SOON), json!([1])).await;
                // Whatever ended the first, the others must find nothing of it.
                for tenant in &tenants {
                    if matches!(last.end, Ended::GivenUp) {
                        break;
                    }
                    last = self.call(tenant, json!([0])).await;
                    if !matches!(&last.end, Ended::Gave(found) if *found == json!(0)) {
                        break;
                    }
                }
                last
            }
            Attack::Crowd => self.crowd(&function, host).await,
            Attack::Queue => self.queue(&function).await,
            Attack::Wait => self.wait(&function).await,
        }
    }

    /// The longest that it may go on.
    pub(super) fn longest(&self) -> Duration {
        let name = match self.case.promise() {
            Promise::Busy => "busy_ms",
            Promise::QueueWait => "queue_wait_ms",
            _ => "deadline_ms",
        };
        Duration::from_millis(self.figures.get(name))
    }

    /// How long it may take at most, as far as anybody can tell.
    fn patience(&self) -> Duration {
        let times = ["deadline_ms", "busy_ms", "queue_wait_ms"].map(|name| self.figures.get(name));
        let limit = times[0].min(if self.case.promise() == Promise::QueueWait { times[2] } else { u64::MAX });
        if limit > 2 * LONGEST { PATIENCE } else { Duration::from_millis(limit) + PATIENCE }
    }

    /// On a task of its own: a guest that holds its thread must not hold the harness.
    async fn call(&self, function: &Function, args: Value) -> Outcome {
        let function = function.clone();
        let export = if self.is_script { "default" } else { "run" };
        let started = Instant::now();
        let mut call = tokio::spawn(async move {
            let started = Instant::now();
            let ended = match args {
                Value::Null => function.call::<Value>(export, ()).await,
                args => function.call::<Value>(export, args).await,
            };
            (ended, started.elapsed())
        });
        match tokio::time::timeout(self.patience(), &mut call).await {
            Ok(Ok((Ok(reply), wall))) => {
                Outcome { end: Ended::Gave(reply.value), usage: reply.usage, wall, far: self.wire.far() }
            }
            Ok(Ok((Err(error), wall))) => Outcome::failed(&error, wall, self.wire.far()),
            Ok(Err(panic)) => {
                let end = Ended::Failed { kind: ErrorKind::Internal, text: format!("the call panicked: {panic}") };
                Outcome { end, usage: Default::default(), wall: started.elapsed(), far: self.wire.far() }
            }
            Err(_) => {
                call.abort();
                let _ = tokio::time::timeout(PATIENCE, call).await;
                self.given_up(started)
            }
        }
    }

    fn given_up(&self, started: Instant) -> Outcome {
        let (wall, far) = (started.elapsed(), self.wire.far());
        Outcome { end: Ended::GivenUp, usage: Default::default(), wall, far }
    }

    fn wrong(&self, text: impl Into<String>, started: Instant) -> Outcome {
        let (end, wall) = (Ended::Wrong(text.into()), started.elapsed());
        Outcome { end, usage: Default::default(), wall, far: self.wire.far() }
    }

    fn done(&self, value: Value, wall: Duration) -> Outcome {
        Outcome { end: Ended::Gave(value), usage: Default::default(), wall, far: self.wire.far() }
    }
}

/// Has it done, and says how long that took.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    (work.await, started.elapsed())
}

type Waiting = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// What waits at the gate.
impl Shot {
    /// A call, polled once.
    fn start(function: &Function) -> (Waiting, Option<Result<(), Error>>) {
        let function = function.clone();
        let mut call: Waiting = Box::pin(async move { function.call::<()>("run", ()).await.map(drop) });
        let ended = call.as_mut().now_or_never();
        (call, ended)
    }

    /// As many calls as may run at once, and one more: it must wait.
    async fn crowd(&self, function: &Function, host: &Host) -> Outcome {
        let started = Instant::now();
        let (may, before) = (self.figures.get("concurrency"), self.wire.inside());
        let has = u64::from(host.free_seats());
        let most = may.min(has);
        let mut calls: Vec<Waiting> = Vec::new();
        // Each of a tenant of its own, so that none runs out of its seats.
        for n in 0..=most {
            calls.push(Shot::start(&function.tenant(format!("tenant {n}"))).0);
        }
        let mut all = futures_util::future::join_all(calls);
        let inside = || self.wire.inside() - before;
        let came = async {
            while inside() < most {
                // A tick may fall between a call's first poll and its coming to the gate.
                let _ = Pin::new(&mut all).now_or_never();
                tokio::task::yield_now().await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, came).await.is_ok();
        let inside = inside();
        self.wire.came(inside);
        let text = match () {
            _ if !came => Some(format!("only {inside} calls of {most} ran at once")),
            _ if inside > most => Some(format!("{inside} calls ran at once")),
            _ if may > has && may >= u64::from(u32::MAX) => {
                Some(format!("one function took all {has} seats of the host"))
            }
            _ => None,
        };
        drop(all);
        match text {
            Some(text) => self.wrong(text, started),
            None => self.done(Value::Null, started.elapsed()),
        }
    }

    /// One call has the seat, as many as may wait do, and one more is refused at once.
    async fn queue(&self, function: &Function) -> Outcome {
        let started = Instant::now();
        let may = self.figures.get("queue");
        let mut calls = vec![Shot::start(function).0];
        for _ in 0..may.min(CROWD) {
            let (call, ended) = Shot::start(function);
            if let Some(Err(error)) = ended {
                return self.wrong(format!("only {} of {may} could wait: {error}", calls.len() - 1), started);
            }
            calls.push(call);
        }
        self.wire.came(calls.len() as u64 - 1);
        match Shot::start(function).1 {
            Some(Err(error)) => Outcome::failed(&error, started.elapsed(), self.wire.far()),
            _ => self.wrong(format!("{} calls wait, and more may", calls.len()), started),
        }
    }

    /// One call has the seat, and another waits for it in vain.
    async fn wait(&self, function: &Function) -> Outcome {
        let (holder, _) = Shot::start(function);
        let mut holder = pin!(holder);
        let started = Instant::now();
        let waits = function.call::<()>("run", ());
        let waits = async { tokio::time::timeout(self.patience(), waits).await };
        let ended = tokio::select! {
            ended = waits => ended,
            _ = holder.as_mut() => return self.wrong("the seat was given back", started),
        };
        match ended {
            Ok(Err(error)) => Outcome::failed(&error, started.elapsed(), self.wire.far()),
            Ok(Ok(_)) => self.wrong("there was a second seat", started),
            Err(_) => self.given_up(started),
        }
    }
}

/// A kind of component that has slots of its own, apart from those of others.
#[derive(Clone, Copy)]
pub(super) enum Flavour {
    Plain,
    /// For component-model async.
    Asynchronous,
    /// Its memory begins with much.
    Image,
}

/// Counts what is not empty in a memory of a MiB, a table and a global, with a stop at the gate.
fn waits(flavour: Flavour) -> String {
    let (ty, data) = match flavour {
        Flavour::Plain => ("", String::new()),
        Flavour::Asynchronous => ("(type (func async))", String::new()),
        Flavour::Image => ("", format!(r#"(data (i32.const 0) "{}")"#, "\\00".repeat(64 << 10))),
    };
    format!(
        r#"(component
            (import "wait" (func $wait)) {ty}
            (core func $wait' (canon lower (func $wait)))
            (core module $m
                (import "" "wait" (func $w))
                (memory 16) {data} (table $t 1000 funcref) (global $g (mut i32) (i32.const 0))
                (func (export "run") (result i32) (local $i i32) (local $n i32)
                    (loop $l
                        (local.set $n (i32.add (local.get $n) (i64.ne (i64.load (local.get $i)) (i64.const 0))))
                        (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 8))) (i32.const 1048576))))
                    (local.set $i (i32.const 0))
                    (loop $l
                        (local.set $n
                            (i32.add (local.get $n) (i32.eqz (ref.is_null (table.get $t (local.get $i))))))
                        (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
                    (call $w)
                    (i32.add (local.get $n) (global.get $g))))
            (core instance $i (instantiate $m (with "" (instance (export "wait" (func $wait'))))))
            (func (export "run") (result u32) (canon lift (core func $i "run"))))"#
    )
}

/// Has that many calls run at once, and all of them end well. Gives in how many places they found what others had left.
pub(super) async fn fill(host: &Host, calls: u32, fuel: bool, flavour: Flavour) -> Result<u64, String> {
    let wire = Wire::default();
    let gate = wire.clone();
    let limits = Limits::default().concurrency(calls.max(1)).deadline(ms(30_000)).queue(0);
    let limits = if fuel { limits.fuel(u64::from(u32::MAX)) } else { limits.busy(ms(30_000)) };
    let builder = host.function("full house").component_wat(waits(flavour)).limits(limits);
    let function = builder.import("", "wait", move |_, ()| gate.clone().wait()).load().await;
    let function = function.map_err(|error| error.to_string())?;
    let all = (0..calls).map(|n| {
        let function = function.tenant(format!("tenant {n}"));
        async move { function.call::<u32>("run", ()).await }
    });
    let mut all = Box::pin(futures_util::future::join_all(all));
    let came = async {
        while wire.inside() < u64::from(calls) {
            if let Some(ended) = all.as_mut().now_or_never() {
                return ended;
            }
            tokio::task::yield_now().await;
        }
        wire.open();
        all.await
    };
    let ended = tokio::time::timeout(PATIENCE * 3, came).await;
    let ended = ended.map_err(|_| format!("only {} calls of {calls} ran at once", wire.inside()))?;
    let (ended, failed): (Vec<_>, Vec<_>) = ended.into_iter().partition(Result::is_ok);
    match failed.into_iter().find_map(Result::err) {
        Some(error) => Err(format!("{} of {calls} calls at once failed: {error}", calls as usize - ended.len())),
        None => Ok(ended.into_iter().flatten().map(|reply| u64::from(reply.value)).sum()),
    }
}
