//! Component types for people and programs: WIT notation and JSON Schema (2020-12), and whether a type has a JSON form.
//!
//! The shapes are those of `value`. The schema gives one way to write a value, ours: whatever it allows is accepted,
//! and results fit it; kebab-case names, or bytes as an array, are accepted although the schema does not allow them.
//!
//! Invariants: a type can be a graph whose tree has 10^5 leaves and a name can have 100 000 bytes, so everything here
//! is bounded by its output or by the number of different types, never by the tree.

use crate::engine::value::{Param, is_octets, snake};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use wasmtime::component::types::{Case, Type};

/// Longest WIT notation: some lines on a terminal.
const MAX_WIT: usize = 480;

/// About how many bytes of JSON a schema may have, for the parameters and for the result each. A tool description of
/// that size is useless to a language model already; what does not fit is left open, with a `$comment`.
const MAX_SCHEMA: usize = 256 * 1024;
/// About how many bytes of JSON a type takes beside its names.
const NODE: usize = 64;

const CUT: &str = "cut: the type is too large to be shown whole";

/// The types of one component that were found to be supported, to pass to [`supported`] for the next one.
///
/// They are known by their `Debug` form, which holds the index of the type in its component. Were that to change, an
/// unsupported type might be found at the call instead of at the load, nothing worse.
#[derive(Debug, Default)]
pub(crate) struct Seen(HashSet<String>);

/// Whether values of this type have a JSON form; the error says what has none.
pub(crate) fn supported(ty: &Type, seen: &mut Seen) -> Result<(), String> {
    if is_leaf(ty) {
        return match ty {
            Type::Own(_) | Type::Borrow(_) => Err(format!("{} is a handle, which has no JSON form", wit(ty))),
            Type::Future(_) | Type::Stream(_) | Type::ErrorContext | Type::Map(_) | Type::FixedLengthList(_) => {
                Err(format!("{} has no JSON form", wit(ty)))
            }
            _ => Ok(()),
        };
    }
    let key = format!("{ty:?}");
    if seen.0.contains(&key) {
        return Ok(());
    }
    match ty {
        Type::List(list) => supported(&list.ty(), seen),
        Type::Record(record) => record.fields().try_for_each(|field| supported(&field.ty, seen)),
        Type::Tuple(tuple) => tuple.types().try_for_each(|ty| supported(&ty, seen)),
        Type::Variant(variant) => variant.cases().filter_map(|case| case.ty).try_for_each(|ty| supported(&ty, seen)),
        Type::Option(option) => supported(&option.ty(), seen),
        Type::Result(result) => [result.ok(), result.err()].iter().flatten().try_for_each(|ty| supported(ty, seen)),
        _ => Ok(()),
    }?;
    seen.0.insert(key);
    Ok(())
}

fn is_leaf(ty: &Type) -> bool {
    use Type::*;
    !matches!(ty, List(_) | Record(_) | Tuple(_) | Variant(_) | Option(_) | Result(_))
}

/// The type in WIT notation, cut at some hundred bytes. Named types are written out: a compiled component no longer
/// knows their names.
pub(crate) fn wit(ty: &Type) -> String {
    let mut out = Wit(String::new());
    // The only error is "full".
    if out.ty(ty).is_err() {
        out.0.truncate(out.0.floor_char_boundary(MAX_WIT));
        out.0.push('…');
    }
    out.0
}

struct Full;

/// Writes until it is full, so that its cost is bounded by what it writes.
struct Wit(String);

impl Wit {
    fn text(&mut self, text: &str) -> Result<(), Full> {
        let room = (MAX_WIT + 4).saturating_sub(self.0.len());
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        if self.0.len() > MAX_WIT { Err(Full) } else { Ok(()) }
    }

    fn ty(&mut self, ty: &Type) -> Result<(), Full> {
        match ty {
            Type::Bool => self.text("bool"),
            Type::S8 => self.text("s8"),
            Type::U8 => self.text("u8"),
            Type::S16 => self.text("s16"),
            Type::U16 => self.text("u16"),
            Type::S32 => self.text("s32"),
            Type::U32 => self.text("u32"),
            Type::S64 => self.text("s64"),
            Type::U64 => self.text("u64"),
            Type::Float32 => self.text("f32"),
            Type::Float64 => self.text("f64"),
            Type::Char => self.text("char"),
            Type::String => self.text("string"),
            Type::Own(_) => self.text("own<resource>"),
            Type::Borrow(_) => self.text("borrow<resource>"),
            Type::ErrorContext => self.text("error-context"),
            // Off in our engines.
            Type::Map(_) | Type::FixedLengthList(_) => self.text("unknown"),
            Type::List(list) => self.around("list", [Some(list.ty())]),
            Type::Tuple(tuple) => self.around("tuple", tuple.types().map(Some)),
            Type::Option(option) => self.around("option", [Some(option.ty())]),
            Type::Result(result) => match (result.ok(), result.err()) {
                (None, None) => self.text("result"),
                (ok, None) => self.around("result", [ok]),
                (ok, err) => self.around("result", [ok, err]),
            },
            Type::Future(future) if future.ty().is_none() => self.text("future"),
            Type::Future(future) => self.around("future", [future.ty()]),
            Type::Stream(stream) if stream.ty().is_none() => self.text("stream"),
            Type::Stream(stream) => self.around("stream", [stream.ty()]),
            Type::Record(record) => {
                self.block("record", record.fields().map(|field| (field.name, ": ", Some(field.ty))))
            }
            Type::Variant(variant) => self.block("variant", variant.cases().map(|case| (case.name, "(", case.ty))),
            Type::Enum(names) => self.block("enum", names.names().map(|name| (name, "", None))),
            Type::Flags(names) => self.block("flags", names.names().map(|name| (name, "", None))),
        }
    }

    fn around(&mut self, name: &str, types: impl IntoIterator<Item = Option<Type>>) -> Result<(), Full> {
        self.text(name)?;
        for (i, ty) in types.into_iter().enumerate() {
            self.text(if i == 0 { "<" } else { ", " })?;
            match ty {
                Some(ty) => self.ty(&ty)?,
                None => self.text("_")?,
            }
        }
        self.text(">")
    }

    fn block<'n>(
        &mut self,
        name: &str,
        parts: impl Iterator<Item = (&'n str, &'n str, Option<Type>)>,
    ) -> Result<(), Full> {
        self.text(name)?;
        for (i, (name, open, ty)) in parts.enumerate() {
            self.text(if i == 0 { " { " } else { ", " })?;
            self.text(name)?;
            if let Some(ty) = ty {
                self.text(open)?;
                self.ty(&ty)?;
                self.text(if open == "(" { ")" } else { "" })?;
            }
        }
        self.text(" }")
    }
}

/// JSON Schema of a function: `{"parameters": .., "result": ..}`, the parameters as an object by name.
pub(crate) fn json_schema(params: &[Param], result: Option<&Type>) -> Value {
    let mut budget = Budget(MAX_SCHEMA);
    let names = params.iter().map(|param| param.name.len()).sum();
    let parameters = match budget.take(params.len(), names) {
        true => object(params.iter().map(|param| (param.name.as_str(), param.ty.clone())), &mut budget),
        false => json!({ "type": "object", "$comment": CUT }),
    };
    let result = result.map_or(json!({ "type": "null" }), |ty| schema(ty, &mut Budget(MAX_SCHEMA)));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "parameters": parameters,
        "result": result,
    })
}

/// How many bytes may still be written.
struct Budget(usize);

impl Budget {
    /// Pays for the parts of a type and their names.
    fn take(&mut self, parts: usize, names: usize) -> bool {
        match self.0.checked_sub(parts.saturating_mul(NODE).saturating_add(names)) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }

    /// Looks at the names only if there are few enough of them.
    fn take_named<'n>(&mut self, names: impl ExactSizeIterator<Item = &'n str>) -> bool {
        let parts = names.len();
        parts.saturating_mul(NODE) <= self.0 && self.take(parts, names.map(str::len).sum())
    }
}

fn schema(ty: &Type, budget: &mut Budget) -> Value {
    let affordable = match ty {
        Type::Record(record) => budget.take_named(record.fields().map(|field| field.name)),
        Type::Variant(variant) => budget.take_named(variant.cases().map(|case| case.name)),
        Type::Enum(names) => budget.take_named(names.names()),
        Type::Flags(names) => budget.take_named(names.names()),
        Type::Tuple(tuple) => budget.take(tuple.types().len(), 0),
        _ => budget.take(2, 0),
    };
    if !affordable {
        return json!({ "$comment": CUT });
    }
    match ty {
        Type::Bool => json!({ "type": "boolean" }),
        Type::S8 => integer(i8::MIN, i8::MAX),
        Type::U8 => integer(u8::MIN, u8::MAX),
        Type::S16 => integer(i16::MIN, i16::MAX),
        Type::U16 => integer(u16::MIN, u16::MAX),
        Type::S32 => integer(i32::MIN, i32::MAX),
        Type::U32 => integer(u32::MIN, u32::MAX),
        Type::S64 => integer(i64::MIN, i64::MAX),
        Type::U64 => integer(u64::MIN, u64::MAX),
        Type::Float32 => float(json!({ "type": "number", "minimum": f32::MIN, "maximum": f32::MAX })),
        Type::Float64 => float(json!({ "type": "number" })),
        Type::Char => json!({ "type": "string", "minLength": 1, "maxLength": 1 }),
        Type::String => json!({ "type": "string" }),
        _ if is_octets(ty) => json!({ "type": "string", "contentEncoding": "base64" }),
        Type::List(list) => json!({ "type": "array", "items": schema(&list.ty(), budget) }),
        Type::Record(record) => object(record.fields().map(|field| (field.name, field.ty)), budget),
        Type::Tuple(tuple) => {
            let items: Vec<Value> = tuple.types().map(|ty| schema(&ty, budget)).collect();
            let len = items.len();
            json!({ "type": "array", "prefixItems": items, "items": false, "minItems": len, "maxItems": len })
        }
        Type::Variant(variant) => {
            let case = |case: Case<'_>| match case.ty {
                Some(ty) => single(&snake(case.name), schema(&ty, budget)),
                None => json!({ "const": snake(case.name) }),
            };
            let cases: Vec<Value> = variant.cases().map(case).collect();
            json!({ "oneOf": cases })
        }
        Type::Enum(names) => json!({ "type": "string", "enum": names.names().map(snake).collect::<Vec<_>>() }),
        Type::Flags(names) => {
            let names: Vec<String> = names.names().map(snake).collect();
            json!({ "type": "array", "uniqueItems": true, "items": { "type": "string", "enum": names } })
        }
        Type::Option(option) => {
            let some = match option.ty() {
                // Or else `some(none)` could not be told from `none`.
                inner @ Type::Option(_) => single("some", schema(&inner, budget)),
                inner => schema(&inner, budget),
            };
            json!({ "anyOf": [some, { "type": "null" }] })
        }
        Type::Result(result) => {
            let mut case =
                |name, ty: Option<Type>| single(name, ty.map_or(json!({ "type": "null" }), |ty| schema(&ty, budget)));
            json!({ "oneOf": [case("Ok", result.ok()), case("Err", result.err())] })
        }
        // Nothing fits; see `supported`.
        _ => json!({ "not": {}, "$comment": format!("{} has no JSON form", wit(ty)) }),
    }
}

fn integer<T: serde::Serialize>(minimum: T, maximum: T) -> Value {
    json!({ "type": "integer", "minimum": minimum, "maximum": maximum })
}

fn float(number: Value) -> Value {
    json!({ "anyOf": [number, { "enum": ["NaN", "Infinity", "-Infinity"] }] })
}

/// An object with exactly these fields, of which options may be missing.
fn object<'n>(fields: impl Iterator<Item = (&'n str, Type)>, budget: &mut Budget) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, ty) in fields {
        if !matches!(ty, Type::Option(_)) {
            required.push(snake(name));
        }
        properties.insert(snake(name), schema(&ty, budget));
    }
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

/// An object with one field, which must be there even if it is null.
fn single(name: &str, value: Value) -> Value {
    json!({ "type": "object", "properties": { name: value }, "required": [name], "additionalProperties": false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::value::tests::{signature, ty, ty_with};
    use std::time::Instant;

    const DEFS: &str = r#"
        (type $c' (enum "red" "dark-blue")) (import "c" (type $c (eq $c')))
        (type $fl' (flags "can-read" "write")) (import "fl" (type $fl (eq $fl')))
        (type $v' (variant (case "nothing") (case "circle" f64))) (import "v" (type $v (eq $v')))
        (import "res" (type $res (sub resource)))
        (type $o' (record (field "need" u8) (field "may-be" (option u8)))) (import "o" (type $o (eq $o')))"#;

    #[test]
    fn types_read_as_wit() {
        for (wat, expected) in [
            ("u8", "u8"),
            ("float64", "f64"),
            ("(tuple u8 (list string))", "tuple<u8, list<string>>"),
            ("(result)", "result"),
            ("(result u8)", "result<u8>"),
            ("(result (error string))", "result<_, string>"),
            ("$c", "enum { red, dark-blue }"),
            ("$fl", "flags { can-read, write }"),
            ("$v", "variant { nothing, circle(f64) }"),
            ("$o", "record { need: u8, may-be: option<u8> }"),
            ("(own $res)", "own<resource>"),
            ("(list (borrow $res))", "list<borrow<resource>>"),
        ] {
            assert_eq!(wit(&ty_with(DEFS, wat)), expected);
        }
    }

    #[test]
    fn schemas_say_what_is_accepted() {
        let sixty_four = json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX });
        for (wat, expected) in [
            ("u64", sixty_four.clone()),
            ("(list u8)", json!({ "type": "string", "contentEncoding": "base64" })),
            ("(list u64)", json!({ "type": "array", "items": sixty_four })),
            ("(option bool)", json!({ "anyOf": [{ "type": "boolean" }, { "type": "null" }] })),
            ("$c", json!({ "type": "string", "enum": ["red", "dark_blue"] })),
            (
                "(result)",
                json!({ "oneOf": [single("Ok", json!({ "type": "null" })), single("Err", json!({ "type": "null" }))] }),
            ),
            ("$v", json!({ "oneOf": [{ "const": "nothing" }, single("circle", float(json!({ "type": "number" })))] })),
            (
                "(tuple bool)",
                json!({ "type": "array", "prefixItems": [{ "type": "boolean" }], "items": false, "minItems": 1, "maxItems": 1 }),
            ),
        ] {
            assert_eq!(schema(&ty_with(DEFS, wat), &mut Budget(MAX_SCHEMA)), expected, "{wat}");
        }
        let nested = schema(&ty("(option (option bool))"), &mut Budget(MAX_SCHEMA));
        assert_eq!(nested["anyOf"][0]["required"], json!(["some"]));

        let (params, result) =
            signature(&format!(r#"{DEFS} (import "f" (func (param "the-x" $o) (param "y" (option u8))))"#));
        let whole = json_schema(&params, result.as_ref());
        assert_eq!(whole["result"], json!({ "type": "null" }));
        let parameters = &whole["parameters"];
        assert_eq!((&parameters["required"], &parameters["additionalProperties"]), (&json!(["the_x"]), &json!(false)));
        assert_eq!(parameters["properties"]["the_x"]["required"], json!(["need"]));
        assert!(parameters["properties"]["the_x"]["properties"]["may_be"]["anyOf"].is_array());
    }

    #[test]
    fn handles_and_streams_have_no_json_form() {
        for (wat, fine) in [
            ("$o", true),
            ("(list $v)", true),
            ("(own $res)", false),
            ("(option (tuple u8 (list (borrow $res))))", false),
            ("(result u8 (error (own $res)))", false),
            ("(tuple $o (own $res))", false),
            ("(stream u8)", false),
            ("(future)", false),
        ] {
            let mut seen = Seen::default();
            let ty = ty_with(DEFS, wat);
            for _ in 0..2 {
                assert_eq!(supported(&ty, &mut seen).is_ok(), fine, "{wat}");
            }
        }
        // Types are remembered by their index: two records are two entries.
        let mut seen = Seen::default();
        let two = ty_with(DEFS, "(tuple $o (tuple u8 $v))");
        supported(&two, &mut seen).unwrap();
        assert_eq!(seen.0.len(), 5, "{seen:?}");
    }

    /// Ten fields of ten fields, five deep: 10^5 leaves in a component of some kilobytes; and names of 100 000 bytes.
    #[test]
    fn a_huge_type_is_cut_and_costs_little() {
        let mut defs = String::new();
        let mut inner = "u8".to_string();
        for level in 0..5 {
            let fields: String = (0..10).map(|i| format!(r#"(field "f{i}" {inner})"#)).collect();
            defs +=
                &format!(r#"(type $t{level}' (record {fields})) (import "t{level}" (type $t{level} (eq $t{level}')))"#);
            inner = format!("$t{level}");
        }
        let fields: String = (0..5).map(|i| format!(r#"(field "{}{i}" u8)"#, "n".repeat(99_990))).collect();
        defs += &format!(r#"(type $n' (record {fields})) (import "n" (type $n (eq $n')))"#);
        let (params, _) = signature(&format!(r#"{defs} (import "f" (func (param "x" $t4) (param "y" $n)))"#));
        let start = Instant::now();
        let mut seen = Seen::default();
        assert!(params.iter().all(|param| supported(&param.ty, &mut seen).is_ok()));
        assert!(wit(&params[0].ty).len() < MAX_WIT + 8 && wit(&params[1].ty).len() < MAX_WIT + 8);
        let text = json_schema(&params, Some(&params[0].ty)).to_string();
        assert!(text.contains(CUT) && text.len() < 8 * MAX_SCHEMA, "{} bytes", text.len());
        assert!(start.elapsed().as_millis() < 1000, "{:?}", start.elapsed());
    }
}
