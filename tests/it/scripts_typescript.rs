//! Scripts in TypeScript: types are taken out, places stay where they are, and what is more than a type is refused.

use isopod::{Error, ErrorKind, Host, Language, SCRIPT_TYPES, ScriptBuilder};
use serde_json::{Value, json};
use std::sync::LazyLock;

/// One for all tests: what takes types out is compiled once.
static HOST: LazyLock<Host> = LazyLock::new(|| Host::new().unwrap());

fn script(source: impl Into<Vec<u8>>) -> ScriptBuilder {
    HOST.script("rule", Language::TypeScript, source)
}

async fn run(source: &str, input: Value) -> Result<Value, Error> {
    let rule = script(source).load().await?;
    Ok(rule.call::<Value>("default", (input,)).await?.value)
}

async fn refusal(source: &str) -> Error {
    script(source).load().await.map(drop).unwrap_err()
}

const RULE: &str = r#"
interface Item { readonly price: number; count?: number }
type Order<T extends Item = Item> = { items: T[]; country: "DE" | "FR" };
abstract class Tax { abstract readonly rate: number; apply(sum: number): number { return sum * (1 + this.rate) } }
class German extends Tax { override readonly rate = 0.19; private declare hidden: string }
declare const nothing: unique symbol;
function sum<T extends Item>(this: void, items: readonly T[]): number {
    return items.reduce((sum: number, { price, count }: T) => sum + price * (count ?? 1), 0);
}
export type { Order };
export default async function (input: unknown, context: { tenant?: string }): Promise<{ total: number }> {
    const order = input as Order;
    const taxes = { DE: new German() } satisfies Partial<Record<Order["country"], Tax>>;
    const tax = taxes.DE!;
    return { total: Math.round(tax.apply(sum(order.items)) * 100) / 100 };
}
"#;

#[tokio::test]
async fn types_are_taken_out() {
    let order = json!({"items": [{"price": 10, "count": 2}, {"price": 5}], "country": "DE"});
    assert_eq!(run(RULE, order).await.unwrap(), json!({"total": 29.75}));
    // JavaScript is TypeScript too.
    assert_eq!(run("export default (x) => x < 2 && x > 0", json!(1)).await.unwrap(), json!(true));
}

#[tokio::test]
async fn an_updated_script_is_in_the_same_language() {
    let rule = script("export default (x: number): number => x + 1").load().await.unwrap();
    rule.update("export default (x: number): number => x + 2").await.unwrap();
    assert_eq!(rule.call::<u32>("default", (1,)).await.unwrap().value, 3);
    let error = rule.update("export default (x: number: number) => x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidScript);
    assert_eq!(rule.call::<u32>("default", (1,)).await.unwrap().value, 3);
}

#[tokio::test]
async fn errors_have_the_places_of_the_source() {
    let source =
        "type A = { é: string };\ninterface B {\n  x: number\n}\nexport default (b: B | null): number =>   b!.x";
    let error = run(source, Value::Null).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Thrown);
    let thrown = error.exception().unwrap();
    assert_eq!((thrown.name(), thrown.line()), ("TypeError", Some(5)));
    let column = thrown.column().unwrap() as usize;
    assert!(source.lines().last().unwrap()[column - 1..].contains(".x"), "{column}");
    assert!(thrown.excerpt().contains("b: B | null"), "the excerpt is of the source: {error}");

    // What swc does not read, and what it reads and QuickJS does not.
    let error = refusal("export default (x: number) => {\n  let y: = 1\n}").await;
    assert_eq!(error.kind(), ErrorKind::InvalidScript);
    let thrown = error.exception().unwrap();
    assert_eq!((thrown.name(), thrown.line(), thrown.column()), ("SyntaxError", Some(2), Some(10)), "{error}");
    assert!(thrown.excerpt().contains("let y: = 1"), "{error}");
    let error = refusal("export default (x: number) => {\n  const y: number = 1; y: for (;;) { break z }\n}").await;
    assert!(error.exception().unwrap().excerpt().contains("const y: number"), "the excerpt is of the source: {error}");
}

#[tokio::test]
async fn what_is_more_than_a_type_is_refused_and_named() {
    for (source, word) in [
        ("enum Colour { Red }\nexport default () => Colour.Red", "enum"),
        ("namespace A { export const x = 1 }\nexport default () => A.x", "namespace"),
        ("class A { constructor(public x: number) {} }\nexport default () => new A(1).x", "parameter property"),
        ("import fs = require('fs');\nexport default () => fs", "import"),
    ] {
        let error = refusal(source).await;
        assert_eq!(error.kind(), ErrorKind::InvalidScript, "{error}");
        assert!(error.to_string().to_lowercase().contains(word), "{word}: {error}");
        assert_eq!(error.exception().unwrap().line(), Some(1), "{error}");
    }
}

/// It recurses: that ends in the sandbox, and not with the process.
#[tokio::test]
async fn sources_that_are_hard_to_read_end_within_limits() {
    let nested = |open: &str, close: &str, depth: usize| {
        format!("export default () => {}1{}", open.repeat(depth), close.repeat(depth))
    };
    for (source, kinds) in [
        (nested("(", ")", 100_000), &[ErrorKind::Trapped, ErrorKind::InvalidScript][..]),
        (nested("[", "]", 100_000), &[ErrorKind::Trapped, ErrorKind::InvalidScript]),
        (
            format!("type A = {}1;export default () => 1", "[".repeat(100_000)),
            &[ErrorKind::Trapped, ErrorKind::InvalidScript],
        ),
        ("<".repeat(1_000_000), &[ErrorKind::Trapped, ErrorKind::InvalidScript, ErrorKind::TimedOut]),
    ] {
        let error = refusal(&source).await;
        assert!(kinds.contains(&error.kind()), "{:?}: {error}", error.kind());
        assert!(error.to_string().len() < 2_000);
    }
    assert_eq!(run("export default (): number => 1", Value::Null).await.unwrap(), json!(1));
}

/// The declarations that editors have are TypeScript themselves.
#[tokio::test]
async fn the_declarations_are_typescript() {
    let source = format!("{SCRIPT_TYPES}\nexport default (): string => typeof fetch");
    assert_eq!(run(&source, Value::Null).await.unwrap(), json!("function"));
}
