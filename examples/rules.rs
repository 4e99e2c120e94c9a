//! An engine that prices orders by rules which its customers wrote: shops, each with a text of its own.
//!
//! ```text
//! cargo run --release --features typescript --example rules
//! ```
//!
//! Thousands of orders are priced, those of all shops at once, and then the same ones again while another shop's rule
//! does its worst. Each call is on its shop's bill, and nobody pays for what another did. Then a shop makes mistakes,
//! and is told where; and a rule is replaced while calls of it run. What is claimed is checked: a claim that does not
//! hold is an error.

use anyhow::{Context as _, bail, ensure};
use futures_util::{StreamExt as _, future, stream};
use isopod::store::{Batch, Space, Store};
use isopod::{
    CallOptions as _, Error, ErrorKind, Function, Functions, Host, KIB, KeyValue, Language, Limits, MIB, Meter,
    Receipt, ms,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

// ---- What goes into a rule, and what comes out. Money is in cents.

#[derive(Clone, Serialize)]
struct Order {
    id: u64,
    buyer: u32,
    country: &'static str,
    lines: Vec<Line>,
}

#[derive(Clone, Serialize)]
struct Line {
    sku: u32,
    count: u32,
    cents: u32,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Price {
    total: u64,
    shipping: u64,
}

// ---- Shops and their rules, as they would lie in a database.

const SHOPS: [(&str, Language, &str); 4] = [
    ("acme", Language::JavaScript, VOLUME_DISCOUNT),
    ("globex", Language::JavaScript, FREE_SHIPPING),
    ("initech", Language::JavaScript, LOYALTY),
    ("umbrella", Language::TypeScript, ZONES),
];

const VOLUME_DISCOUNT: &str = r#"
const off = (count) => count >= 50 ? 0.2 : count >= 10 ? 0.1 : 0;
export default function (order) {
    const lines = order.lines.map(({ count, cents }) => Math.round(count * cents * (1 - off(count))));
    return { total: lines.reduce((sum, cents) => sum + cents, 0), shipping: 490 };
}"#;

const FREE_SHIPPING: &str = r#"
const freeFrom = new Map([["DE", 200_00], ["FR", 500_00]]);
export default function (order) {
    const total = order.lines.reduce((sum, { count, cents }) => sum + count * cents, 0);
    return { total, shipping: total >= (freeFrom.get(order.country) ?? Infinity) ? 0 : 990 };
}"#;

/// Its two reads are under way at once. Points are added in one step, whatever other calls do meanwhile: none is lost.
const LOYALTY: &str = r#"
export default async function (order) {
    const [level, off] = await Promise.all([kv.get(`level/${order.buyer}`), kv.get("off", "json")]);
    const full = order.lines.reduce((sum, { count, cents }) => sum + count * cents, 0);
    const total = Math.round(full * (1 - (off[level] ?? 0)));
    await kv.increment(`points/${order.buyer}`, Math.floor(total / 100));
    return { total, shipping: 490 };
}"#;

const ZONES: &str = r#"
interface Line { sku: number; count: number; cents: number }
interface Order { id: number; buyer: number; country: "DE" | "FR" | "NL"; lines: Line[] }
interface Price { total: number; shipping: number }

const zones: Record<Order["country"], number> = { DE: 490, FR: 890, NL: 690 };
const sum = (lines: readonly Line[]): number => lines.reduce((sum, { count, cents }) => sum + count * cents, 0);

export default function (order: Order): Price {
    const off = Math.max(0, order.lines.length - 2) / 100;
    return { total: Math.round(sum(order.lines) * (1 - off)), shipping: zones[order.country] };
}"#;

/// A loop without end, all the memory there is, and a regular expression that tries 2^40 ways to match.
const HOSTILE: &str = r#"
export default function (order) {
    switch (order.id % 3) {
        case 0: for (;;);
        case 1: for (const all = []; ; all.push(new Uint8Array(1 << 20)));
        case 2: return { total: /^(a+)+$/.test("a".repeat(40) + "b") };
    }
}"#;

/// Orders of each shop, and of the hostile one.
const ORDERS: u64 = 4_000;
const ATTACKS: u64 = 30;
/// Calls of a shop that are under way at once.
const AT_ONCE: usize = 8;
const BUYERS: u32 = 20;
/// What a rule may compute, in instructions: some hundred times of what one takes, and some hundredths of a second.
const FUEL: u64 = 200_000_000;
const MEMORY: u64 = 8 * MIB;

// The prices of this example, in dollars: for calls, and for what rules compute. By fuel, an order costs the same
// whatever else the machine does; by `Usage::busy` it would not.
const PER_MILLION_CALLS: f64 = 0.20;
const PER_BILLION_FUEL: f64 = 0.001;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (ledger, store) = (Ledger::default(), Store::memory());
    let host = Host::builder().meter(ledger.clone()).store(store.clone()).build()?;
    let mut rules = BTreeMap::new();
    for (shop, language, text) in SHOPS.into_iter().chain([("hooli", Language::JavaScript, HOSTILE)]) {
        rules.insert(shop, load(&host, shop, language, text).await?);
    }
    let loyalty = Space::new(Some("initech"), "loyalty");
    let off = Batch::new().set(&loyalty, "off", r#"{ "silver": 0.05, "gold": 0.1 }"#);
    let level = |buyer| ["none", "silver", "gold"][buyer as usize % 3];
    let setup = (0..BUYERS).fold(off, |batch, buyer| batch.set(&loyalty, format!("level/{buyer}"), level(buyer)));
    store.kv().commit(setup).await?;

    let mut orders: BTreeMap<_, _> = SHOPS.iter().map(|(shop, ..)| (*shop, make_orders(ORDERS))).collect();
    let calm = price_all(&rules, &orders).await;
    let alone = ledger.take();
    orders.insert("hooli", make_orders(ATTACKS));
    let started = Instant::now();
    let attacked = price_all(&rules, &orders).await;
    let (took, accounts) = (started.elapsed(), ledger.take());
    println!("{} orders priced in {took:.1?}\n", accounts.values().map(Account::calls).sum::<usize>());
    print_bill(&accounts, &alone);

    for (shop, orders) in &orders {
        ensure!(accounts[*shop].calls() == orders.len(), "not all calls of {shop} are on the bill");
    }
    for (shop, priced) in &calm {
        for (id, price) in priced {
            let (Ok(price), Ok(again)) = (price, &attacked[shop][id]) else { bail!("order {id} of {shop} failed") };
            ensure!(price == again, "order {id} of {shop} was given another price");
        }
        ensure!(accounts[*shop].fuel == alone[*shop].fuel, "{shop} pays for what hooli did");
    }
    let mut points = 0;
    for buyer in 0..BUYERS {
        let found = store.kv().get(&loyalty, format!("points/{buyer}").as_bytes()).await?.context("no points")?;
        points += std::str::from_utf8(&found.value)?.parse::<u64>()?;
    }
    let earned = calm["initech"].values().chain(attacked["initech"].values()).flatten().map(|price| price.total / 100);
    ensure!(points == earned.sum::<u64>(), "points were lost or made up");

    println!("\nhooli's rule, stopped {ATTACKS} times while the others' ran:");
    for (id, price) in &attacked["hooli"] {
        let Err(error) = price else { bail!("it was not stopped") };
        let expected = [ErrorKind::OutOfFuel, ErrorKind::OutOfMemory, ErrorKind::OutOfFuel][*id as usize % 3];
        ensure!(error.kind() == expected, "it ended as {error:?}");
        if *id < 3 {
            println!("  we read      {error} [{:?}; {}]", error.kind(), error.usage());
            println!("  hooli reads  {}", for_shop(error));
        }
    }
    mistakes(&rules["acme"]).await?;
    update_in_flight(&host).await
}

async fn load(host: &Host, shop: &str, language: Language, text: &str) -> isopod::Result<Function> {
    let limits = Limits::default().fuel(FUEL).deadline(ms(30_000)).memory(MEMORY).output(64 * KIB);
    // Without a clock and chance: a price can be worked out again, and costs the same again.
    let rule = host.script(format!("{shop}/price"), language, text).limits(limits).deterministic(7);
    // The same grant for all: a bucket is apart for each tenant.
    Ok(rule.grant(KeyValue::bucket("loyalty")).load().await?.tenant(shop))
}

/// What came of orders, by their numbers.
type Priced = BTreeMap<u64, isopod::Result<Price>>;

/// Prices all orders, of all shops at once.
async fn price_all<'a>(
    rules: &BTreeMap<&str, Function>,
    orders: &BTreeMap<&'a str, Vec<Order>>,
) -> BTreeMap<&'a str, Priced> {
    let shops = orders.iter().map(|(shop, orders)| async { (*shop, price(&rules[shop], orders).await) });
    future::join_all(shops).await.into_iter().collect()
}

/// Prices one shop's orders, some at once. A task for each lets rules use every core.
async fn price(rule: &Function, orders: &[Order]) -> Priced {
    let calls = stream::iter(orders.iter().cloned()).map(|order| {
        let rule = rule.clone();
        tokio::spawn(async move { (order.id, rule.call("default", (&order,)).await.map(|reply| reply.value)) })
    });
    calls.buffer_unordered(AT_ONCE).map(|task| task.expect("pricing an order does not panic")).collect().await
}

/// The same ones each time.
fn make_orders(count: u64) -> Vec<Order> {
    let mut random = StdRng::seed_from_u64(7);
    let line = |random: &mut StdRng| Line {
        sku: random.random_range(1..1_000),
        count: random.random_range(1..60),
        cents: random.random_range(99..10_000),
    };
    let order = |id| Order {
        id,
        buyer: random.random_range(0..BUYERS),
        country: ["DE", "FR", "NL"][random.random_range(0..3)],
        lines: (0..random.random_range(1..6)).map(|_| line(&mut random)).collect(),
    };
    (0..count).map(order).collect()
}

/// What a shop is told. An error's own text is for us: it names limits that are ours to raise.
fn for_shop(error: &Error) -> String {
    match (error.kind(), error.exception()) {
        (ErrorKind::OutOfFuel, _) => format!("your rule was stopped: it took more than {FUEL} steps"),
        (ErrorKind::OutOfMemory, _) => format!("your rule was stopped: it took more than {} MiB", MEMORY / MIB),
        (ErrorKind::Thrown, None) => "your rule gives no price: { total, shipping }, in whole cents".into(),
        (_, Some(thrown)) => {
            let what = match thrown.name() {
                "" => thrown.message().to_owned(),
                name => format!("{name}: {}", thrown.message()),
            };
            match thrown.line().zip(thrown.column()) {
                Some((line, column)) => {
                    format!("line {line}, column {column}: {what}\n              | {}", thrown.excerpt())
                }
                None => what,
            }
        }
        (ErrorKind::InvalidScript, None) => "your rule is empty, longer than 1 MiB, or not UTF-8".into(),
        _ => "your rule failed, and we have been told".into(),
    }
}

// ---- Mistakes.

async fn mistakes(rule: &Function) -> anyhow::Result<()> {
    println!("\nacme's mistakes, as acme reads them:");
    let order = &make_orders(1)[0];
    let before = rule.call::<Price>("default", (order,)).await?.value;

    let open = "export default function (order) {\n    const rate = order.lines.length > 3 ? 0.9;\n    return rate;\n}";
    let error = rule.update(open).await.err().context("it compiled")?;
    println!("  saved   {}", for_shop(&error));
    ensure!((error.kind(), error.exception().and_then(|e| e.line())) == (ErrorKind::InvalidScript, Some(2)), "{error}");
    ensure!(rule.call::<Price>("default", (order,)).await?.value == before, "the rule before it is gone");

    rule.update("export default (order) => {\n    return { total: order.coupon.worth, shipping: 0 };\n}").await?;
    let error = rule.call::<Price>("default", (order,)).await.err().context("it has a coupon")?;
    println!("  called  {}", for_shop(&error));
    ensure!((error.kind(), error.exception().and_then(|e| e.line())) == (ErrorKind::Thrown, Some(2)), "{error}");

    rule.update("export default (order) => ({ total: '12.50 EUR', shipping: 0 })").await?;
    let error = rule.call::<Price>("default", (order,)).await.err().context("a text is a price")?;
    println!("  called  {}", for_shop(&error));
    ensure!(error.kind() == ErrorKind::Thrown && error.exception().is_none(), "{error}");
    Ok(())
}

// ---- A rule is replaced while calls of it run.

/// How a script reaches a function of ours: it calls a component that has it as its import.
const WAREHOUSE: &str = r#"(component
    (import "in-stock" (func $in-stock (param "sku" u32) (result u32)))
    (core func $lowered (canon lower (func $in-stock)))
    (core module $m
        (import "" "f" (func $f (param i32) (result i32)))
        (func (export "f") (param i32) (result i32) (call $f (local.get 0))))
    (core instance $i (instantiate $m (with "" (instance (export "f" (func $lowered))))))
    (func (export "in-stock") (param "sku" u32) (result u32) (canon lift (core func $i "f"))))"#;

const SCARCITY: &str = r#"
export default async function ({ lines: [{ sku }] }) {
    const left = await call("warehouse", [sku], "in-stock");
    return { total: left < 5 ? 1200 : 1000, shipping: 490 };
}"#;

async fn update_in_flight(host: &Host) -> anyhow::Result<()> {
    let (asks, mut asked_for) = mpsc::unbounded_channel();
    let answers = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&answers);
    let in_stock = move |_, (sku,): (u32,)| {
        let (asks, gate) = (asks.clone(), Arc::clone(&gate));
        async move {
            let _ = asks.send(sku);
            let _open = gate.acquire().await;
            3_u32
        }
    };
    let warehouse = host.function("warehouse").component_wat(WAREHOUSE).import("", "in-stock", in_stock);
    let _warehouse = warehouse.callable().load().await?;
    let rule = host.script("stark/price", Language::JavaScript, SCARCITY).grant(Functions::named("warehouse"));
    let (rule, orders) = (rule.load().await?.tenant("stark"), make_orders(AT_ONCE as u64));

    let update = async {
        for _ in &orders {
            asked_for.recv().await.context("nobody asks")?;
        }
        // All run now, and wait for the warehouse. Those that begin after this do not ask it.
        rule.update("export default () => ({ total: 900, shipping: 0 })").await?;
        let new = price(&rule, &orders).await;
        answers.add_permits(1);
        anyhow::Ok(new)
    };
    let (old, new) = future::join(price(&rule, &orders), update).await;
    for (priced, expected) in [(&old, 1200), (&new?, 900)] {
        let as_expected = |price: &isopod::Result<Price>| price.as_ref().is_ok_and(|price| price.total == expected);
        ensure!(priced.len() == orders.len() && priced.values().all(as_expected), "{priced:?}");
    }
    println!("\nstark's rule, replaced: {AT_ONCE} calls end with the old text, {AT_ONCE} run the new one meanwhile");
    Ok(())
}

// ---- The bill.

#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<BTreeMap<String, Account>>>);

/// What a shop used.
#[derive(Default)]
struct Account {
    failed: usize,
    fuel: u64,
    busy: Duration,
    peak: u64,
    /// How long each call took.
    walls: Vec<Duration>,
}

impl Meter for Ledger {
    fn record(&self, receipt: &Receipt<'_>) {
        // What a call's own calls used is in its receipt.
        if receipt.depth == 0 {
            let mut accounts = self.0.lock().unwrap();
            let account = accounts.entry(receipt.tenant.to_owned()).or_default();
            account.failed += usize::from(receipt.error.is_some());
            account.fuel += receipt.usage.fuel.unwrap_or(0);
            account.busy += receipt.usage.busy;
            account.peak = account.peak.max(receipt.usage.peak_memory);
            account.walls.push(receipt.usage.wall);
        }
    }
}

impl Ledger {
    /// The accounts so far, sorted for percentiles. New ones begin.
    fn take(&self) -> BTreeMap<String, Account> {
        let mut accounts = std::mem::take(&mut *self.0.lock().unwrap());
        accounts.values_mut().for_each(|account| account.walls.sort());
        accounts
    }
}

impl Account {
    fn calls(&self) -> usize {
        self.walls.len()
    }

    fn percentile(&self, percent: usize) -> Duration {
        self.walls[(self.walls.len() * percent).div_ceil(100) - 1]
    }

    fn dollars(&self) -> f64 {
        self.calls() as f64 / 1e6 * PER_MILLION_CALLS + self.fuel as f64 / 1e9 * PER_BILLION_FUEL
    }
}

fn print_bill(accounts: &BTreeMap<String, Account>, alone: &BTreeMap<String, Account>) {
    println!(
        "shop     calls  failed     fuel      busy      peak       p50       p99  without hooli     to pay  a million"
    );
    for (shop, account) in accounts {
        let Account { failed, fuel, busy, peak, .. } = account;
        let (calls, fuel, peak) = (account.calls(), fuel / 1_000_000, *peak as f64 / MIB as f64);
        let [p50, p99] = [50, 99].map(|percent| account.percentile(percent));
        let before = alone.get(shop).map_or("-".into(), |before| format!("{:.1?}", before.percentile(99)));
        let (dollars, million) = (account.dollars(), format!("${:.2}", account.dollars() / calls as f64 * 1e6));
        print!("{shop:<8} {calls:>5} {failed:>7} {fuel:>6} M {busy:>9.1?} {peak:>5.1} MiB");
        print!(" {p50:>9.1?} {p99:>9.1?} {before:>14}");
        println!("  ${dollars:.6} {million:>10}");
    }
}
