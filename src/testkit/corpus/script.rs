//! Guests that are scripts: their code runs in an interpreter that is a guest itself, and most of what they call is native
//! code of that, which must give way and end as theirs does.

use crate::ErrorKind::{InvalidScript, LimitExceeded, OutOfMemory, OutputTooLarge, Thrown, TimedOut};
use crate::testkit::case::{Attack, Case, Figures, Guest};
use crate::testkit::judge::FORGED;
use crate::testkit::promise::Promise::{
    Busy, Calls, Deadline, Depth, Fresh, Fuel, Grants, HostCalls, Log, Memory, Network, Output, Quota, Resident,
    Sources, Text, Transfer, Trap,
};
use crate::{Functions, Http, KeyValue, Limit, MIB, Secret, Secrets};
use serde_json::json;

/// Bytes that a guest takes at most: a process must survive a limit that is off.
const MOST: u64 = 128 * MIB;
/// For those that are to come to the end of their memory soon, whatever they may have.
const LITTLE: &[(&str, u64)] = &[("memory_bytes", 64 * MIB)];
/// Takes most of that first, for those that take what is left bit by bit.
const MUCH: &str = "const much = new Uint8Array(50 << 20);";

/// What takes longest is first.
pub(super) fn cases() -> Vec<Case> {
    [computing(), memory(), saying(), reaching(), leaving(), recursion(), sources()].concat()
}

fn js(source: impl Into<String>) -> Guest {
    Guest::Script(source.into())
}

/// A limit, or so much if it is more.
fn most(figures: &Figures, name: &str, most: u64) -> u64 {
    figures.get(name).min(most)
}

fn computing() -> Vec<Case> {
    let endless = |name, threat, guest| Case::new(name, threat, Deadline, guest).fails(TimedOut);
    vec![
        endless("script: a loop", 1, |_| js("export default () => { for (;;); }")),
        endless("script: a loop as it is loaded", 1, |_| js("for (;;); export default () => 1")),
        endless("script: promises without end", 1, |_| js("export default async () => { for (;;) await null }")),
        endless("script: a promise of itself", 1, |_| {
            js("export default () => { const t = { then(done) { done(t) } }; return Promise.resolve(t) }")
        }),
        endless("script: an expression that goes back and back", 3, |_| {
            js("export default () => /^(a+)+$/.test('a'.repeat(40) + 'b')")
        }),
        endless("script: four thousand million holes, in turn", 3, |_| {
            js("export default () => new Array(2 ** 32 - 1).map(hole => hole)")
        }),
        endless("script: digits of a number of a million bits", 3, |_| {
            js("export default () => { for (;;) (2n ** 1000000n).toString() }")
        }),
        endless("script: a list that is sorted as it changes", 3, |_| {
            js("export default () => { for (const list = [];;) {
                for (let n = 0; n < 1e5; n++) list[n] = n % 7;
                list.sort(() => { list.length = 0; list.push(1, 2, 3); return Math.random() - 0.5 });
            } }")
        }),
        endless("script: proxies that answer everything", 1, |_| {
            js("export default () => {
                const all = () => proxy, proxy = new Proxy(function () {}, { get: all, apply: all, construct: all, has: () => true,
                    getPrototypeOf: all, ownKeys: () => ['prototype'], set: () => true });
                for (;;) { proxy.a.b(); new proxy(proxy); 'c' in proxy; proxy.d = Object.keys(proxy) }
            }")
        }),
        endless("script: values that compute what they are", 1, |_| {
            js("export default () => {
                let asked = 0;
                const value = { [Symbol.toPrimitive]: () => ++asked };
                for (;;) new Array(2)[value] = `${value}` + value * value;
            }")
        }),
        endless("script: a loop as its result is read", 2, |_| js("export default () => ({ get x() { for (;;); } })")),
        endless("script: a loop as its error is read", 2, |_| {
            js("export default () => { throw { get message() { for (;;); } } }")
        }),
        endless("script: a loop as its stack is told", 2, |_| {
            js("Error.prepareStackTrace = () => { for (;;); }; export default () => { throw new Error('x') }")
        }),
        endless("script: a sleep of thirty thousand years", 16, |_| {
            js("export default () => new Promise(done => setTimeout(done, 1e15))")
        }),
        endless("script: timers of nothing", 16, |_| {
            js("export default () => new Promise(() => { const again = () => setTimeout(again, 0); again() })")
        }),
        endless("script: random bytes without end", 16, |_| {
            js("export default () => { for (const bytes = new Uint8Array(65536);;) crypto.getRandomValues(bytes) }")
        }),
        Case::new("script: computes for ever", 17, Busy, |_| js("export default () => { for (let n = 0;;) n++ }"))
            .spends(),
        Case::new("script: burns fuel for ever", 1, Fuel, |_| js("export default () => { for (let n = 0;;) n++ }"))
            .spends(),
        Case::new("script: awaits what nobody promised", 16, Trap, |_| {
            js("export default () => new Promise(() => {})")
        })
        .fails(Thrown),
    ]
}

fn memory() -> Vec<Case> {
    let hungry = |name, guest| Case::new(name, 5, Memory, guest).room(LITTLE).fails(OutOfMemory);
    vec![
        Case::new("script: more bytes than it may have", 5, Memory, |figures| {
            // No array has more than twice a thousand million.
            let bytes = figures.get("memory_bytes");
            let bytes = if bytes == u64::MAX { MOST } else { bytes.min(2_000_000_000) };
            js(format!("export default () => new Uint8Array({bytes}).length"))
        })
        .fails(OutOfMemory),
        hungry("script: arrays of a megabyte", |_| {
            js(
                "export default () => { const all = []; for (let n = 0; n < 128; n++) all.push(new Uint8Array(1 << 20)) }",
            )
        }),
        hungry("script: text of half a gigabyte", |_| js("export default () => 'x'.repeat(2 ** 29).length")),
        hungry("script: text that doubles", |_| {
            // Of its halves, until somebody reads it.
            js(
                "export default () => { let text = 'x'; for (let n = 0; n < 28; n++) text += text; return text.indexOf('y') }",
            )
        }),
        hungry("script: what an iterator gives", |_| {
            js("export default () => {
                function* all() { for (let n = 0; n < 2000; n++) yield new Uint8Array(65536) }
                return [...all()].length
            }")
        }),
        hungry("script: promises by the hundred thousand", |_| {
            js(format!(
                "{MUCH} export default async () => {{
                    const all = [];
                    for (let n = 0; n < 1e5; n++) all.push((async () => {{ await null }})());
                    await Promise.all(all);
                }}"
            ))
        }),
        hungry("script: an expression that remembers where it was", |_| {
            js("export default () => /^(a|aa)+$/.test('a'.repeat(1e6) + 'b')")
        }),
        hungry("script: holes that are filled", |_| {
            js(format!("{MUCH} export default () => new Array(2 ** 32 - 1).fill(0).length"))
        }),
        hungry("script: copies of copies", |_| {
            js(format!(
                "{MUCH} export default () => {{
                    const one = 'x'.repeat(1 << 20), all = [];
                    for (let n = 0; n < 64; n++) all.push(structuredClone([one]));
                }}"
            ))
        }),
        hungry("script: a text of many bytes", |_| {
            js("export default () => new TextDecoder().decode(new Uint8Array(40 << 20)).length")
        }),
        // Of which nothing would be larger than an interpreter has numbers for.
        hungry("script: a number of a hundred million bits", |_| js("export default () => 2n ** 100000000n > 1n"))
            .fails(Thrown),
        hungry("script: says that its memory is over", |_| {
            js("export default () => { throw Object.assign(new Error('out of memory'), { name: 'InternalError' }) }")
        })
        .fails(Thrown),
        Case::new("script: a million timers", 14, Resident, |_| {
            js("export default () => { for (let n = 0; n < 1e6; n++) setTimeout(() => {}, 1e6) }")
        })
        .fails(Thrown),
    ]
}

fn saying() -> Vec<Case> {
    vec![
        Case::new("script: a result of one byte more", 12, Output, |figures| {
            // With the quotes around it.
            js(format!("export default () => 'x'.repeat({})", most(figures, "output_bytes", 16 * MIB).saturating_sub(1)))
        })
        .fails(OutputTooLarge),
        Case::new("script: bytes of one more", 12, Output, |figures| {
            js(format!("export default () => new Uint8Array({})", most(figures, "output_bytes", 16 * MIB) + 1))
        })
        .fails(OutputTooLarge),
        Case::new("script: a list that is little text", 12, Transfer, |figures| {
            let values = most(figures, "transfer_bytes", 16 * MIB) / 42 + 1;
            js(format!("export default () => Array({values}).fill(0)"))
        })
        .fails(OutputTooLarge),
        Case::new("script: a result that doubles", 12, Resident, |_| {
            js("export default () => { let all = 'x'.repeat(1100); for (let n = 0; n < 12; n++) all = [all, all]; return all }")
        })
        .fails(OutputTooLarge),
        Case::new("script: asks for the time, once more than it may", 3, HostCalls, |figures| {
            let calls = most(figures, "host_calls", 1_000_000) + 1;
            js(format!("export default () => {{ for (let n = 0; n < {calls}; n++) Date.now() }}"))
        })
        .fails(LimitExceeded(Limit::HostCalls)),
        Case::new("script: a flood of lines", 15, Log, |figures| {
            let lines = most(figures, "log_bytes", 2 * MIB) / 1_024 + 1_000;
            js(format!("export default () => {{ for (let n = 0; n < {lines}; n++) console.log('x'.repeat(1000)); return 1 }}"))
        })
        .room(&[("host_calls", u64::MAX)])
        .gives(|_| json!(1)),
        Case::new("script: a line of megabytes", 15, Transfer, |figures| {
            let bytes = most(figures, "transfer_bytes", 16 * MIB) + 1;
            js(format!("export default () => console.log('x'.repeat({bytes}))"))
        })
        .fails(LimitExceeded(Limit::Transfer)),
        Case::new("script: a message of ten megabytes", 36, Text, |_| {
            js("export default () => { throw new Error('\\u001b[2J\\u202e\\u0007'.repeat(1e6)) }")
        })
        .fails(Thrown),
        Case::new("script: a name that is lines of an error", 36, Text, |_| {
            let lines = format!("x\\n{FORGED}\\n    {FORGED}\\u001b[2J");
            js(format!(
                "export default () => {{ throw Object.assign(new Error('{lines}'), {{ name: '{lines}', stack: '{lines}' }}) }}"
            ))
        })
        .fails(Thrown),
        Case::new("script: a source that is lines of an error", 36, Text, |_| {
            js(format!("const \u{1b}[2J\u{202e} = '\n{FORGED}\n{}", "x".repeat(100_000)))
        })
        .refused(InvalidScript),
        Case::new("script: throws what cannot be read", 36, Text, |_| {
            js("export default () => {
                const nothing = new Proxy({}, { get() { throw nothing }, getPrototypeOf() { throw nothing } });
                throw nothing
            }")
        })
        .fails(Thrown),
        Case::new("script: a result that cannot be read", 36, Text, |_| {
            js("export default () => ({ toJSON() { throw new Proxy({}, { get() { throw 1 } }) } })")
        })
        .fails(Thrown),
    ]
}

/// Says what it was refused.
fn refused(asks: &str) -> Guest {
    js(format!(
        "export default async () => {{
            try {{ return `it got ${{await {asks}}}` }} catch (error) {{ return error.name }}
        }}"
    ))
}

fn reaching() -> Vec<Case> {
    let ungranted = |name, threat, guest| Case::new(name, threat, Grants, guest).gives(|_| json!("NotAllowedError"));
    vec![
        ungranted("script: a request that nobody granted", 21, |_| refused("fetch('http://127.0.0.1/')")),
        ungranted("script: keys that nobody granted", 27, |_| refused("kv.get('x')")),
        ungranted("script: a secret that nobody granted", 28, |_| refused("secrets.get('canary')")),
        ungranted("script: a function that nobody granted", 33, |_| refused("call('neighbour', 1)")),
        ungranted("script: a secret's value", 28, |_| refused("secrets.get('canary').reveal()"))
            .with_script(|b| b.grant(Secrets::of(Secret::value("canary", String::from("the canary's own value"))))),
        Case::new("script: code of texts", 32, Grants, |_| {
            js("export default async () => {
                const makes = [() => eval('1'), () => (0, eval)('1'), () => new Function('return 1')(),
                    () => (async () => {}).constructor('return 1')(), () => (function* () {}).constructor('')(),
                    () => setTimeout('1'), () => import('data:text/javascript,1')];
                let made = 0;
                for (const make of makes) try { await make(); made++ } catch {}
                return made
            }")
        })
        .gives(|_| json!(0)),
        Case::new("script: other names of this machine", 22, Network, |_| {
            js("export default async () => {
                const hosts = ['127.0.0.1', '127.1', '0x7f.1', '2130706433', '[::1]', '[::ffff:7f00:1]', 'localhost',
                    'example.com@127.0.0.1', 'example.com:81', 'EXAMPLE.COM.evil.test'];
                let reached = [];
                for (const host of hosts) {
                    try { await fetch(`http://${host}/`); reached.push(host) }
                    catch (error) { if (error.name !== 'NotAllowedError') reached.push(`${host}: ${error}`) }
                }
                return reached
            }")
        })
        .with_script(|b| b.grant(Http::to("http://example.com")))
        .gives(|_| json!([])),
        Case::new("script: another bucket", 27, Quota, |_| refused("kv.bucket('isopod-secret').get('x')"))
            .with_script(|b| b.grant(KeyValue::bucket("isopod-prove")))
            .gives(|_| json!("NotAllowedError")),
        Case::new("script: keys without end", 27, Quota, |_| {
            js("export default async () => {
                let kept = 0;
                for (let n = 0; n < 300; n++) try { await kv.set(`script ${n}`, ''); kept++ } catch {}
                for (let n = 0; n < 300; n++) await kv.delete(`script ${n}`);
                return kept
            }")
        })
        .with_script(|b| b.grant(KeyValue::bucket("isopod-prove").max_keys(100)))
        .gives(|_| json!(100)),
        Case::new("script: calls itself", 33, Depth, |_| {
            js("export default async () => { try { return 1 + await call('script: calls itself') } catch { return 0 } }")
        })
        .with_script(|b| b.grant(Functions::named("script: calls itself")).callable())
        .room(&[("host_calls", u64::MAX), ("calls", u32::MAX as u64)])
        .gives(|figures| json!(figures.get("depth")))
        .seats(|figures| figures.get("depth").min(64) + 1),
        Case::new("script: calls another over and over", 33, Calls, |figures| {
            let calls = figures.get("calls").saturating_add(5).min(20_000);
            js(format!(
                "export default async leaf => {{
                    let answers = 0;
                    for (let n = 0; n < {calls} && !leaf; n++)
                        try {{ await call('script: calls another over and over', true); answers++ }} catch {{ break }}
                    return answers
                }}"
            ))
        })
        .with_script(|b| b.grant(Functions::named("script: calls another over and over")).callable())
        .room(&[("host_calls", u64::MAX)])
        .gives(|figures| json!(figures.get("calls")))
        .seats(|_| 2),
    ]
}

/// Counts what an earlier call has left, everywhere; leaves as much; then, at the first call, does that.
fn marks(then: &str) -> Guest {
    js(format!(
        "let here = 0;
        export default async first => {{
            const places = [globalThis, Object.prototype, Array.prototype, Function.prototype, Promise.prototype, Math, JSON,
                console, crypto, kv.constructor, Object.getPrototypeOf(async () => {{}})];
            let found = here++;
            for (const place of places) {{
                found += Object.hasOwn(place, 'mark');
                try {{ Object.defineProperty(place, 'mark', {{ value: 1, enumerable: false }}) }} catch {{}}
            }}
            if (first) {{ {then} }}
            return found
        }}"
    ))
}

fn leaving() -> Vec<Case> {
    let fresh = |name, guest| Case::new(name, 29, Fresh, guest).attack(Attack::Again).gives(|_| json!(0));
    vec![
        fresh("script: marks for the next call", |_| marks("")),
        fresh("script: marks and loops", |_| marks("for (;;);")),
        fresh("script: marks and recurses, where instances are ready", |_| marks("JSON.parse('['.repeat(1e5))"))
            .with_script(|b| b.prewarm(2))
            .seats(|_| 2),
        fresh("script: has another function in each place", |_| {
            js("export default async first => {
                const forges = Object.entries({ stringify: JSON, parse: JSON, map: Array.prototype, then: Promise.prototype,
                    toJSON: Object.prototype, push: Array.prototype, test: RegExp.prototype, now: Date });
                let forged = 0;
                for (const [name, place] of forges) {
                    if (String(place[name]).includes('forged')) forged++;
                    if (first) place[name] = function forged() { return 'forged' };
                }
                return forged
            }")
        }),
    ]
}

fn recursion() -> Vec<Case> {
    let deep = |name, guest| Case::new(name, 4, Trap, guest).overflows();
    const NEST: &str = "const nest = () => { let all = []; for (let n = 0; n < 1e5; n++) all = [all]; return all }; ";
    vec![
        deep("script: calls without end", |_| js("const f = () => f() + 1; export default f")),
        deep("script: getters without end", |_| {
            js("export default () => { class A { get x() { return this.x } } return new A().x }")
        }),
        deep("script: names that ask for themselves", |_| {
            js("const o = { toString() { return '' + this } }; export default () => `${o}`")
        }),
        deep("script: applied to itself", |_| js("const f = () => Reflect.apply(f, null, []); export default f")),
        deep("script: generators of generators", |_| {
            js("function* g() { yield* g() } export default () => [...g()]")
        }),
        deep("script: JSON of a hundred thousand brackets", |_| js("export default () => JSON.parse('['.repeat(1e5))")),
        deep("script: a result of a hundred thousand lists", |_| js(format!("{NEST} export default nest"))),
        deep("script: a result that goes on", |_| js("const o = { toJSON: () => [o] }; export default () => o")),
        deep("script: lists that are made flat", |_| {
            js(format!("{NEST} export default () => nest().flat(Infinity).length"))
        }),
        deep("script: a copy of a hundred thousand lists", |_| {
            js(format!("{NEST} export default () => structuredClone(nest()).length"))
        }),
        deep("script: a hundred thousand proxies", |_| {
            js("export default () => { let p = {}; for (let n = 0; n < 1e5; n++) p = new Proxy(p, {}); return p.x }")
        }),
        deep("script: a proxy that inherits from itself", |_| {
            js("export default () => { const p = new Proxy({}, {}); Object.setPrototypeOf(p, Object.create(p)); return p.x }")
        }),
        deep("script: an expression of a hundred thousand brackets", |_| {
            js("export default () => new RegExp('(?:'.repeat(1e5))")
        }),
        Case::new("script: bytes that are taken away as they are read", 13, Trap, |_| {
            js("export default () => {
                const takes = (bytes, gives) => ({ valueOf() { bytes.buffer.transfer(); return gives } });
                const games = [b => b.fill(takes(b, 1)), b => b.set([takes(b, 1)], 9), b => b.subarray(takes(b, 8)), b => b.slice(takes(b, 8)),
                    b => b.copyWithin(0, takes(b, 8)), b => b.at(takes(b, 9)), b => b.with(3, takes(b, 1)), b => b.indexOf(0, takes(b, 3)),
                    b => new DataView(b.buffer).setFloat64(takes(b, 8), 1), b => new DataView(b.buffer).getInt8(takes(b, 8)),
                    b => b.sort(() => takes(b, 1).valueOf()), b => b.join({ toString: () => String(takes(b, 1).valueOf()) }),
                    b => b.lastIndexOf(0, takes(b, 8)), b => b.buffer.slice(takes(b, 8)), b => crypto.getRandomValues(new Proxy(b, {})),
                    b => structuredClone({ get x() { return +takes(b, 1) }, b }), b => { b[3] = takes(b, 1) }];
                for (const game of games) try { game(new Uint8Array(1 << 16)) } catch {}
                return games.length
            }")
        })
        .gives(|_| json!(17)),
    ]
}

fn sources() -> Vec<Case> {
    let bomb = |name, guest| Case::new(name, 10, Sources, guest).attack(Attack::Load);
    vec![
        bomb("script: sixty thousand private names", |_| {
            // Each is looked for among all those before it.
            let names: String = (0..60_000).map(|n| format!("#v{n};")).collect();
            js(format!("export default class {{ {names} }}"))
        })
        .spends(),
        bomb("script: a source of brackets", |_| {
            js(format!("export default {}{}", "[".repeat(500_000), "]".repeat(500_000)))
        })
        .overflows(),
        bomb("script: a source of statements in statements", |_| {
            js(format!("{}{} export default () => 1", "{".repeat(500_000), "}".repeat(500_000)))
        })
        .overflows(),
        bomb("script: functions in functions", |_| js(format!("export default {} 1", "()=>".repeat(250_000))))
            .overflows(),
        bomb("script: texts in texts", |_| {
            js(format!("export default {} 1 {}", "`${".repeat(200_000), "}`".repeat(200_000)))
        })
        .overflows(),
        bomb("script: an expression of groups in groups", |_| {
            js(format!("export default () => /{}{}/", "(?:".repeat(200_000), ")".repeat(200_000)))
        })
        .overflows(),
        bomb("script: a number of a million digits", |_| {
            js(format!("export default () => {}n", "9".repeat(1_000_000)))
        })
        .refused(InvalidScript),
        bomb("script: a megabyte and one byte", |_| js(format!("export default () => 1 //{}", "x".repeat(1 << 20))))
            .refused(InvalidScript),
        bomb("script: other files", |_| {
            let imports: String = (0..2_000).map(|n| format!("import v{n} from '/etc/passwd{n}';")).collect();
            js(format!("{imports} export default () => 1"))
        })
        .refused(InvalidScript),
    ]
}
