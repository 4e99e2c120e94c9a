//! Attacks host functions with generated hostile guests, and prints what they bring them to.
//!
//! ```text
//! cargo run --release --features testkit --example fuzz_imports -- [ROUNDS] [SEED]
//! ```
//!
//! The functions are an address book for the guests of many tenants, written twice: once with the mistakes that such
//! functions have, once without; what the first print of panics is theirs, on purpose. Write yours in place of them. A test would be `assert!(report.held(), "{report}")`;
//! the documentation of `isopod::testkit::fuzz` shows a target of `cargo fuzz`.

use anyhow::{Context as _, Result, ensure};
use isopod::testkit::fuzz::{Fault, Fuzz, Report};
use isopod::{Context, Host, Limits, ms};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The world; in a program of yours, the same `.wit` file that `world!` reads.
const WIT: &str = "
    package acme:book;
    interface contacts {
        put: func(name: string, phone: string);
        get: func(name: string) -> option<string>;
        /// The first bytes of a phone number, for lists.
        short: func(phone: string, bytes: u32) -> string;
    }
    world plugin {
        import contacts;
        export run: func() -> string;
    }
";

isopod::world!({ world: "plugin", inline: "
    package acme:book;
    interface contacts {
        put: func(name: string, phone: string);
        get: func(name: string) -> option<string>;
        short: func(phone: string, bytes: u32) -> string;
    }
    world plugin {
        import contacts;
        export run: func() -> string;
    }
" });

use acme::book::contacts::Host as Contacts;

/// What is stored, by tenant and name.
type Rows = Arc<Mutex<HashMap<(String, String), String>>>;

/// With two mistakes.
struct Careless {
    rows: Rows,
}

impl Contacts for Careless {
    async fn put(&mut self, name: String, phone: String) {
        // Whose it is, is forgotten.
        self.rows.lock().unwrap().insert((String::new(), name), phone);
    }

    async fn get(&mut self, name: String) -> Option<String> {
        self.rows.lock().unwrap().get(&(String::new(), name)).cloned()
    }

    async fn short(&mut self, phone: String, bytes: u32) -> String {
        // Not every byte is where a letter begins, and not every text has so many.
        phone[..bytes as usize].to_owned()
    }
}

/// Without.
struct Careful {
    rows: Rows,
    tenant: String,
}

impl Contacts for Careful {
    async fn put(&mut self, name: String, phone: String) {
        let mut rows = self.rows.lock().unwrap();
        // What strangers store has a bound.
        if rows.len() < 1_000 && name.len() + phone.len() < 1_000 {
            rows.insert((self.tenant.clone(), name), phone);
        }
    }

    async fn get(&mut self, name: String) -> Option<String> {
        self.rows.lock().unwrap().get(&(self.tenant.clone(), name)).cloned()
    }

    async fn short(&mut self, phone: String, bytes: u32) -> String {
        phone.get(..bytes as usize).unwrap_or(&phone).to_owned()
    }
}

async fn attack(host: &Host, careful: bool, rounds: u32, seed: u64) -> isopod::Result<Report> {
    let limits = Limits::default().deadline(ms(500)).busy(ms(200));
    let fuzz = Fuzz::inline(WIT, "plugin")?;
    let builder = host.function("plugin").component_bytes(fuzz.guest()).limits(limits);
    let rows = Rows::default();
    let plugin = if careful {
        let imports = move |context: Context| {
            let tenant = context.tenant().unwrap_or_default().to_owned();
            Careful { rows: Arc::clone(&rows), tenant }
        };
        builder.imports_with(imports).load_typed::<Plugin>().await?
    } else {
        let imports = move |_: Context| Careless { rows: Arc::clone(&rows) };
        builder.imports_with(imports).load_typed::<Plugin>().await?
    };
    fuzz.run(plugin.as_ref(), seed, rounds).await
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number =
        |default| args.next().map_or(Ok(default), |arg| arg.parse().context("ROUNDS and SEED are numbers"));
    run(number(1_000)? as u32, number(1)?).await
}

pub(crate) async fn run(rounds: u32, seed: u64) -> Result<()> {
    let host = Host::new()?;
    let report = attack(&host, false, rounds, seed).await?;
    println!("With mistakes:\n{report}\n");
    ensure!(report.has(Fault::Panic) && report.has(Fault::Tenant), "a mistake was not found");
    let report = attack(&host, true, rounds, seed).await?;
    println!("Without:\n{report}");
    ensure!(report.held(), "something is left");
    Ok(())
}
