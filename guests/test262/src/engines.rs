//! What runs a test: isopod's guest, and QuickJS-ng as it is.

use crate::case::Mode;
use anyhow::Result;
use isopod::{Function, Host, Language, Limits, block_on};
use rquickjs::context::EvalOptions;
use rquickjs::function::Func;
use rquickjs::promise::PromiseState;
use rquickjs::{CatchResultExt, CaughtError, Context, Ctx, Module, Object, Promise, Runtime, Value};
use serde::Serialize;
use std::time::{Duration, Instant};

/// The longest that a test may compute: long enough for the slowest on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

const HOST: &str = include_str!("host.js");
const RUN: &str = include_str!("run.js");

/// A test, ready to be run in one way.
#[derive(Serialize)]
pub struct Job {
    #[serde(skip)]
    pub mode: Mode,
    pub harness: String,
    pub test: String,
    pub waits: bool,
}

impl Job {
    /// The test as a module of isopod's, with a default export that says how it went.
    fn module(&self) -> String {
        let [host, harness] = [format!("({HOST})()"), format!("{}\n{NAMED}", self.harness)];
        let [host, harness] = [host, harness].map(|text| serde_json::Value::from(text).to_string());
        let end = if self.waits { "$over" } else { "\"\"" };
        let before = format!("const $over = (0, eval)({host}).over; (0, eval)({harness});");
        format!("{before} {}\nexport default () => {end};\n", self.test)
    }
}

/// What is thrown at the top of a module is known by its name, which errors of tests do not have.
const NAMED: &str = "Test262Error.prototype.name = 'Test262Error';";

/// What a test threw, or how else it ended early.
#[derive(Clone, Debug)]
pub struct Failure {
    pub name: String,
    pub message: String,
}

type Outcome = Result<(), Failure>;

fn failed(name: &str, message: impl ToString) -> Failure {
    Failure { name: name.to_owned(), message: message.to_string() }
}

/// As `host.js` puts it: a line each of name and message, or nothing.
fn outcome(shown: &str) -> Outcome {
    let (name, message) = shown.split_once('\n').unwrap_or(("", shown));
    if shown.is_empty() { Ok(()) } else { Err(failed(name, message)) }
}

pub struct Guest {
    host: Host,
    runs: Function,
}

impl Guest {
    pub fn new() -> Result<Guest> {
        let host = Host::new()?;
        let source = format!("export default (input) => ({RUN})({HOST}, eval, input);");
        let runs = host.script("run", Language::JavaScript, source).eval().limits(limits()).load_blocking()?;
        Ok(Guest { host, runs })
    }

    /// Sloppy code by `eval`; strict code as what it is to customers, a module.
    pub fn run(&self, job: &Job) -> Outcome {
        let answer = block_on(async {
            if job.mode == Mode::Sloppy {
                return self.runs.call::<String>("default", (job,)).await;
            }
            let script = self.host.script("module", Language::JavaScript, job.module()).eval().limits(limits());
            script.load().await?.call("default", ((),)).await
        });
        match answer {
            Ok(reply) => outcome(&reply.value),
            Err(error) => Err(match error.exception() {
                Some(thrown) => failed(thrown.name(), thrown.message()),
                None => failed("", error),
            }),
        }
    }
}

fn limits() -> Limits {
    Limits::default().busy(PATIENCE).deadline(2 * PATIENCE)
}

/// Runs it in QuickJS-ng as it is, in a runtime of its own: a script as one, or `as_guest`, in the way that the guest has.
pub fn native(job: &Job, as_guest: bool) -> Outcome {
    let fail = |error: rquickjs::Error| failed("", error);
    let runtime = Runtime::new().map_err(fail)?;
    let end = Instant::now() + PATIENCE;
    runtime.set_interrupt_handler(Some(Box::new(move || Instant::now() > end)));
    let context = Context::full(&runtime).map_err(fail)?;
    context.with(|ctx| {
        let answer = match job.mode {
            Mode::Sloppy => script(&ctx, job, as_guest),
            Mode::Strict if !as_guest => script(&ctx, job, false),
            Mode::Strict | Mode::Module => module(&ctx, job),
        };
        let shown = answer.and_then(|value| settled(&ctx, value)?.get::<String>());
        match shown.catch(&ctx) {
            Ok(shown) => outcome(&shown),
            Err(CaughtError::Value(value)) if value.is_object() => {
                let text = |name| value.as_object().and_then(|object| object.get::<_, String>(name).ok());
                Err(failed(&text("name").unwrap_or_default(), text("message").unwrap_or_default()))
            }
            Err(CaughtError::Exception(error)) => {
                let name = error.as_object().get::<_, String>("name").unwrap_or_default();
                Err(failed(&name, error.message().unwrap_or_default()))
            }
            Err(other) => Err(failed("", other)),
        }
    })
}

fn script<'js>(ctx: &Ctx<'js>, job: &Job, by_eval: bool) -> rquickjs::Result<Value<'js>> {
    let run: rquickjs::Function = ctx.eval(RUN)?;
    let host: Value = ctx.eval(HOST)?;
    let input = Object::new(ctx.clone())?;
    input.set("harness", job.harness.as_str())?;
    let strict = if job.mode == Mode::Strict { "\"use strict\";\n" } else { "" };
    input.set("test", format!("{strict}{}", job.test))?;
    input.set("waits", job.waits)?;
    // What has a zero byte in it, rquickjs does not take as a script.
    if by_eval || job.test.contains('\0') {
        return run.call((host, ctx.globals().get::<_, Value>("eval")?, input));
    }
    let as_script = Func::from(|ctx: Ctx<'js>, text: String| {
        let mut options = EvalOptions::default();
        options.strict = false;
        ctx.eval_with_options::<Value, _>(text, options)
    });
    run.call((host, as_script, input))
}

fn module<'js>(ctx: &Ctx<'js>, job: &Job) -> rquickjs::Result<Value<'js>> {
    let (module, done) = Module::declare(ctx.clone(), "script", job.module())?.eval()?;
    settled(ctx, done.into_value())?;
    module.get::<_, rquickjs::Function>("default")?.call(())
}

/// The value of a promise, or of what is none.
fn settled<'js>(ctx: &Ctx<'js>, value: Value<'js>) -> rquickjs::Result<Value<'js>> {
    let Some(promise) = Promise::from_value(value.clone()).ok() else { return Ok(value) };
    while promise.state() == PromiseState::Pending && ctx.execute_pending_job() {}
    promise.result().unwrap_or_else(|| Err(rquickjs::Exception::throw_message(ctx, "nothing settles it any more")))
}
