//! Compiling in a process of its own: [`CompileWorker`] says which, [`compile_worker`] is that process's part.
//!
//! Nothing bounds what a compiler takes from within, and nothing can stop it. So a stranger's component is compiled where the
//! kernel bounds it and where it can be killed. The process is started for one component, by a name that nothing else has
//! as its first argument, with no environment, no descriptors but a pipe each way, and limits that it sets for itself before
//! it reads the component. It answers with an [artefact](crate::engine::artefact), signed with a key that was made for it
//! alone, or with the compiler's reasons.
//!
//! What comes back is code that this process runs, so the worker is trusted as the compiler is: what it bounds is what
//! compiling may take, and where a crash of it ends.

use crate::engine::artefact::{Header, Key, Use};
use crate::engine::code::{Opened, Packed, Unusable};
use crate::engine::precheck::Facts;
use crate::engine::{Component, Engine, Flavour, Profile, compiler, maker};
use crate::error::{Error, ErrorKind, Result};
use crate::foreign::panic_text;
use crate::limits::MIB;
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::io::{self, BufRead, Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a worker is called, as the first of its arguments.
const NAME: &str = "isopod-compile-worker";

/// Whether this program's `main` begins with [`compile_worker`].
static HERE: AtomicBool = AtomicBool::new(false);

/// Lets this program compile strangers' components in a process of their own. Call it first thing in `main`, before a
/// runtime is made (with `#[tokio::main]`, make the runtime by hand):
///
/// ```no_run
/// isopod::compile_worker();
/// // .. the program
/// ```
///
/// A [`Host`](crate::Host) that compiles a component of [`Trust::Untrusted`](crate::Trust) then starts this program once
/// more, and there this call compiles the one component, and ends the process. In every other process it returns at once.
/// What stands before it runs in the worker as well. Without it, and without a program of
/// [`HostBuilder::compile_worker`](crate::HostBuilder::compile_worker), components are compiled in the process that loads
/// them, with no bound but [`LoadLimits`](crate::LoadLimits).
pub fn compile_worker() {
    if std::env::args_os().next().as_deref() == Some(OsStr::new(NAME)) {
        std::process::exit(serve().map_or(1, |()| 0));
    }
    HERE.store(true, Ordering::Relaxed);
}

/// Which program compiles strangers' components, and what one may take: for
/// [`HostBuilder::compile_worker`](crate::HostBuilder::compile_worker).
///
/// Each component has a process of its own, which costs some ten milliseconds, and which the host starts and, when its time
/// is up, kills. It has no environment but
/// `LD_LIBRARY_PATH`, the root as its directory, and no open file of this process. It opens none, writes none, and leaves no
/// core. At most one for each core runs at once; other loads wait, and fail as
/// [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded) after as long as one may take.
///
/// ```no_run
/// # fn run() -> isopod::Result<()> {
/// use isopod::{CompileWorker, Host, MIB, ms};
///
/// let worker = CompileWorker::program("/usr/lib/app/isopod-compile-worker").memory(512 * MIB).time(ms(5_000));
/// let host = Host::builder().compile_worker(worker).build()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct CompileWorker {
    program: Option<PathBuf>,
    memory: u64,
    time: Duration,
}

/// Less than the compiler takes for a component of nothing.
const LEAST_MEMORY: u64 = 64 * MIB;

impl CompileWorker {
    /// This program, whose `main` begins with [`compile_worker`]. It is the default where that is so. A program that was
    /// replaced on the disk goes on with the one that was started.
    pub fn this_program() -> CompileWorker {
        CompileWorker { program: None, memory: 1_024 * MIB, time: Duration::from_secs(20) }
    }

    /// The program there: `isopod-compile-worker`, which is a binary of this crate, of the same version; or any whose `main`
    /// begins with [`compile_worker`].
    pub fn program(path: impl Into<PathBuf>) -> CompileWorker {
        CompileWorker { program: Some(path.into()), ..CompileWorker::this_program() }
    }

    /// Bytes of memory that compiling one component may take: the compiler's own data, as the kernel counts them. Linux
    /// only; elsewhere it bounds nothing. Default 1 GiB.
    pub fn memory(mut self, bytes: u64) -> CompileWorker {
        self.memory = bytes;
        self
    }

    /// How long compiling one component may take, by the clock. Default 20 seconds.
    pub fn time(mut self, limit: Duration) -> CompileWorker {
        self.time = limit;
        self
    }
}

/// What the worker is told, in a line of JSON. The component follows.
#[derive(Deserialize, Serialize)]
struct Order {
    /// The version that both must have.
    maker: String,
    flavour: Flavour,
    density: bool,
    pooled: bool,
    memory: u64,
    /// Seconds of all threads together.
    processor: u64,
    key: [u8; 32],
}

/// How an answer begins.
const CODE: u8 = b'c';
const REFUSED: u8 = b'r';
const PANICKED: u8 = b'p';
/// Bytes of an answer that is no code.
const MAX_REASONS: usize = 64 << 10;

// The host's part.

/// A host's workers.
pub(crate) struct Workers {
    spec: CompileWorker,
    free: Mutex<usize>,
    freed: Condvar,
}

impl Workers {
    /// By what the host was given, or else by what this program's `main` said.
    pub(crate) fn new(given: Option<CompileWorker>) -> Result<Option<Workers>> {
        let here = HERE.load(Ordering::Relaxed);
        let Some(mut spec) = given.or_else(|| here.then(CompileWorker::this_program)) else { return Ok(None) };
        let misuse = |text: String| Err(Error::new(ErrorKind::Misuse, text));
        if spec.memory < LEAST_MEMORY {
            return misuse(format!(
                "a compile worker with {} bytes of memory compiles nothing; give it at least {LEAST_MEMORY}",
                spec.memory
            ));
        }
        if spec.time.is_zero() {
            return misuse("a compile worker with no time compiles nothing; give it some seconds".into());
        }
        match &mut spec.program {
            Some(path) => match path.canonicalize() {
                Ok(whole) if whole.is_file() => *path = whole,
                Ok(whole) => return misuse(format!("the compile worker {} is not a program", whole.display())),
                Err(e) => return misuse(format!("the compile worker {} cannot be found: {e}", path.display())),
            },
            None if here => {}
            None => {
                return misuse(
                    "this program cannot be its own compile worker: `main` does not begin with `isopod::compile_worker()`; add that, or give a program by `CompileWorker::program`"
                        .into(),
                );
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Ok(Some(Workers { spec, free: Mutex::new(cores), freed: Condvar::new() }))
    }

    pub(crate) fn spec(&self) -> &CompileWorker {
        &self.spec
    }

    /// Compiles a component, to code of at most so many bytes; to be called where blocking is allowed.
    pub(crate) fn compile(&self, engine: &Engine, bytes: &[u8], most: u64) -> Result<Component> {
        {
            let mut free = self.free.lock();
            if self.freed.wait_while_for(&mut free, |free| *free == 0, self.spec.time).timed_out() {
                let text = format!("all compile workers were busy for {:?}; try again later", self.spec.time);
                return Err(Error::new(ErrorKind::Overloaded, text).retry_in(self.spec.time));
            }
            *free -= 1;
        }
        let _place = Place(self);
        let key = rand::random();
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get) as u64;
        let order = Order {
            maker: maker(),
            flavour: engine.flavour,
            density: engine.profile == Profile::Density,
            pooled: engine.pooled,
            memory: self.spec.memory,
            processor: self.spec.time.as_secs().saturating_add(1).saturating_mul(cores),
            key,
        };
        // With the head of an artefact, or a refusal's reasons.
        let most = usize::try_from(most).unwrap_or(usize::MAX).saturating_add(MAX_REASONS);
        let child = self.start()?;
        let Answer { bytes: answer, in_time, status } = talk(child, &order, bytes, self.spec.time, most)?;
        let CompileWorker { memory, time, .. } = self.spec;
        let beyond = |text: String| Err(Error::new(ErrorKind::TooComplex, text));
        if !in_time {
            return beyond(format!(
                "compiling the component took longer than the {time:?} it may take; raise `CompileWorker::time`, or load it with `Trust::Own` if it is yours"
            ));
        }
        match answer.split_first() {
            Some((&CODE, code)) => {
                let unusable = |unusable: Unusable| match unusable {
                    Unusable::Refused(causes) => compiler::refused(causes),
                    other => broken(format!("what it gave cannot be used: {other:?}")),
                };
                let opened = Opened::new(code, code.len() as u64).map_err(unusable)?;
                let found = &opened.header;
                if found.usage != Use::Answered || Some(found.compatibility) != engine.compatibility {
                    return Err(broken("it compiled for another host".into()));
                }
                opened.load(&Key::new(Use::Answered, &key), engine).map(|(component, _)| component).map_err(unusable)
            }
            Some((&REFUSED, reasons)) => match serde_json::from_slice(reasons) {
                Ok(reasons) => Err(compiler::refused(reasons)),
                Err(e) => Err(broken(format!("its reasons cannot be read: {e}"))),
            },
            Some((&PANICKED, text)) => {
                let text = String::from_utf8_lossy(text).into_owned();
                let what = "the compiler panicked over the component; please report this, with the component";
                Err(Error::new(ErrorKind::Internal, what).because([text]))
            }
            Some(_) => Err(broken("its answer cannot be read".into())),
            None => match status.signal() {
                Some(signal) if [Signal::XCPU, Signal::KILL].iter().any(|limit| limit.as_raw() == signal) => {
                    beyond(format!(
                        "compiling the component took more of the processor than {time:?} on every core, or the system's memory ended; raise `CompileWorker::time`, or load it with `Trust::Own` if it is yours"
                    ))
                }
                Some(signal) => beyond(format!(
                    "compiling the component ended by signal {signal}, as it does when that takes more than the {memory} bytes of memory that it may take; raise `CompileWorker::memory`, or load it with `Trust::Own` if it is yours"
                )),
                None => Err(broken(format!(
                    "it ended with {status} and said nothing: it is of another version, or does not begin with `isopod::compile_worker()`"
                ))),
            },
        }
    }

    fn start(&self) -> Result<Child> {
        let program = match &self.spec.program {
            Some(path) => path.clone(),
            None if cfg!(target_os = "linux") => "/proc/self/exe".into(),
            None => std::env::current_exe().map_err(|e| broken(format!("this program cannot be found: {e}")))?,
        };
        let mut command = Command::new(&program);
        command.arg0(NAME).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // Where this program's libraries are.
        if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
            command.env("LD_LIBRARY_PATH", path);
        }
        command.spawn().map_err(|e| {
            let what = format!("the compile worker {} cannot be started", program.display());
            match e.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => {
                    Error::from_io(ErrorKind::Overloaded, format!("{what}; try again later"), &e)
                }
                _ => broken(format!("{what}: {e}")),
            }
        })
    }
}

/// A worker's place, given back when it is gone.
struct Place<'a>(&'a Workers);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}

fn broken(why: String) -> Error {
    let text =
        "the compile worker does not work; give `HostBuilder::compile_worker` the program of this version of isopod";
    Error::new(ErrorKind::Misuse, text).because([why])
}

struct Answer {
    bytes: Vec<u8>,
    in_time: bool,
    status: ExitStatus,
}

/// Gives the worker its order, and waits for what it says, for so long.
fn talk(mut child: Child, order: &Order, component: &[u8], time: Duration, most: usize) -> Result<Answer> {
    let deadline = Instant::now().checked_add(time);
    let lost = |e: io::Error| broken(format!("it cannot be talked to: {e}"));
    let mut line = serde_json::to_vec(order).map_err(|e| broken(e.to_string()))?;
    line.push(b'\n');
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let mut answer = Vec::new();
    let heard = std::thread::scope(|scope| {
        // It reads all before it answers. If it does not, it is killed, and this ends.
        let feed = std::thread::Builder::new().name("isopod-compile".into());
        let fed = feed.spawn_scoped(scope, || {
            if let Some(mut stdin) = stdin {
                // Whoever does not take it has no answer either.
                let _ = stdin.write_all(&line).and_then(|()| stdin.write_all(component));
            }
        });
        let heard = fed.and_then(|_| match stdout {
            Some(stdout) => hear(stdout, &mut answer, deadline, most),
            None => Ok(true),
        });
        // What it has said it has said. This has no effect on how it ended if it has.
        let _ = child.kill();
        heard
    });
    let status = child.wait().map_err(lost)?;
    Ok(Answer { bytes: answer, in_time: heard.map_err(lost)?, status })
}

/// Reads to the end, and says whether it came before the deadline.
fn hear(
    mut from: std::process::ChildStdout,
    answer: &mut Vec<u8>,
    deadline: Option<Instant>,
    most: usize,
) -> io::Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        let left = left.and_then(|left| left.try_into().ok());
        match poll(&mut [PollFd::new(&from, PollFlags::IN)], left.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        match from.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(read) if read > most.saturating_sub(answer.len()) => return Err(io::ErrorKind::FileTooLarge.into()),
            Ok(read) => answer.extend(&buffer[..read]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

// The worker's part.

/// Takes one order and answers it.
fn serve() -> io::Result<()> {
    close_what_was_inherited()?;
    let mut input = io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line)?;
    let order: Order = serde_json::from_str(&line)?;
    if order.maker != maker() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    confine(&order)?;
    let mut component = Vec::new();
    input.read_to_end(&mut component)?;
    let mut output = io::stdout().lock();
    match catch_unwind(|| answer(&order, &component)) {
        Ok(Ok(packed)) => {
            output.write_all(&[CODE])?;
            packed.parts().iter().try_for_each(|part| output.write_all(part))?;
        }
        Ok(Err(mut reasons)) => {
            // The first is what the compiler makes of it, the last is where it comes from.
            while reasons.iter().map(String::len).sum::<usize>() > MAX_REASONS / 2 && reasons.pop().is_some() {}
            output.write_all(&[REFUSED])?;
            output.write_all(&serde_json::to_vec(&reasons)?)?;
        }
        Err(payload) => {
            output.write_all(&[PANICKED])?;
            output.write_all(panic_text(payload).as_bytes())?;
        }
    }
    output.flush()
}

fn answer(order: &Order, component: &[u8]) -> std::result::Result<Packed, Vec<String>> {
    let profile = if order.density { Profile::Density } else { Profile::Latency };
    let (code, compatibility) = compiler::translate(order.flavour, profile, order.pooled, component)?;
    let header = Header {
        usage: Use::Answered,
        maker: maker(),
        fuel: order.flavour.fuel,
        compatibility: compatibility.unwrap_or_default(),
        digest: *blake3::hash(component).as_bytes(),
        // The host has its own.
        facts: Facts::default(),
        needs: None,
        length: 0,
        gap: (0, 0),
    };
    Packed::of(code, header, &Key::new(Use::Answered, &order.key)).ok_or_else(|| vec!["it is too large".into()])
}

/// Rust's own descriptors are not inherited; those of other libraries may be.
fn close_what_was_inherited() -> io::Result<()> {
    let folder = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    let open: Vec<i32> = std::fs::read_dir(folder)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in open {
        // That of the listing itself is gone already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

/// Sets limits that nothing in this process can raise again.
fn confine(order: &Order) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let limits = [
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, 16),
        (Resource::Cpu, order.processor),
        (Resource::Data, order.memory),
    ];
    for (resource, most) in limits {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}
