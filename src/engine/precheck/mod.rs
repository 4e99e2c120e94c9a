//! Looks at a component's bytes before anything is compiled. Pure: bytes in, facts or a refusal out.
//!
//! Compiling cannot be interrupted, and a component of a kilobyte can ask for gigabytes of code by instantiating its
//! parts over and over, or by exporting them over and over. So the parts are counted here with their multiplicity, in
//! one pass over the sections. Whether the bytes are *valid* is left to the compiler's validator; this only has to be
//! right about what is large, and must end quickly and without a panic on any bytes at all.

mod effort;
mod survey;

use survey::Survey;
use wasmparser::{Parser, Payload};

/// What a component may look like; see [`LoadLimits`](crate::LoadLimits).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub bytes: u64,
    pub functions: u32,
    pub instances: u32,
    pub adapters: u32,
    pub nesting: u32,
    pub values: u64,
}

/// What was found. Of each bound, the most that was held against it: the same component passes whatever bounds these
/// fit, without being read again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Facts {
    /// Whether it needs component-model async: `async` functions, streams, futures, or any WASI 0.3 interface.
    pub asynchronous: bool,
    pub bytes: u64,
    /// The most of core functions, imports and globals; types; and what instances export.
    pub functions: u64,
    /// Core instances that one instance of the component consists of.
    pub instances: u64,
    /// Parts and adapters of one instance of the component.
    pub adapters: u64,
    pub nesting: u64,
    pub values: u64,
    /// Parts of one instance of the component that have code of their own, at least 1. With component-model async each
    /// of them can stand still in the middle of a call, on a stack that nobody else can use meanwhile.
    pub parts: u32,
    /// Whether code runs as an instance starts: the guest's own, or what works out where its data go.
    pub starts: bool,
    /// Bytes that its memories begin with.
    pub data: u64,
}

/// Why the bytes are not even tried.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// Not a component; the text says what it is instead.
    Invalid(String),
    /// Types within types, more than this.
    TooDeep(u64),
    /// A component beyond a bound: its name, what was found, the bound.
    TooComplex { what: &'static str, found: u64, limit: u64 },
}

impl Facts {
    /// Whether a component in which this was found passes those bounds.
    pub(crate) fn within(&self, bounds: &Bounds) -> Result<(), Refusal> {
        within("component_bytes", self.bytes, bounds.bytes)?;
        within("functions", self.functions, bounds.functions.into())?;
        within("core_instances", self.instances, bounds.instances.into())?;
        within("adapters", self.adapters, bounds.adapters.into())?;
        within("nesting", self.nesting, bounds.nesting.into())?;
        within("values", self.values, bounds.values)
    }
}

impl From<wasmparser::BinaryReaderError> for Refusal {
    fn from(error: wasmparser::BinaryReaderError) -> Refusal {
        Refusal::Invalid(format!("{} (at byte {})", error.message(), error.offset()))
    }
}

/// Checks the outside of the bytes, then counts what is inside.
pub(crate) fn inspect(bytes: &[u8], bounds: Bounds) -> Result<Facts, Refusal> {
    within("component_bytes", bytes.len() as u64, bounds.bytes)?;
    recognise(bytes)?;
    let mut survey = Survey::new(bounds);
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        if let Payload::ComponentTypeSection(section) = &payload {
            bound_type_nesting(&bytes[section.range()])?;
        }
        survey.visit(payload)?;
    }
    Ok(Facts { bytes: bytes.len() as u64, ..survey.facts })
}

/// The custom sections of that name of the component itself, not of its parts. For bytes that passed [`inspect`].
pub(crate) fn custom_sections<'a>(bytes: &'a [u8], name: &str) -> Vec<&'a [u8]> {
    let (mut depth, mut found) = (0_u32, Vec::new());
    for payload in Parser::new(0).parse_all(bytes) {
        match payload {
            Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(Payload::CustomSection(section)) if depth == 0 && section.name() == name => found.push(section.data()),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    found
}

/// Types within types that a section may have. Real components have a handful.
const TYPE_NESTING: u64 = 250;

/// wasmparser reads a type within a type by recursion, without a bound of its own: a few hundred kilobytes of it
/// overflow the native stack and end the process. Each level takes a declaration of a type (1) that is a component or
/// instance type (0x41, 0x42), so those pairs of bytes are at least as many as the levels. Names of one letter look the
/// same; nobody has hundreds of those in a section.
fn bound_type_nesting(section: &[u8]) -> Result<(), Refusal> {
    let levels = section.windows(2).filter(|pair| pair[0] == 1 && matches!(pair[1], 0x41 | 0x42)).count();
    if levels as u64 > TYPE_NESTING { Err(Refusal::TooDeep(TYPE_NESTING)) } else { Ok(()) }
}

fn within(what: &'static str, found: u64, limit: u64) -> Result<(), Refusal> {
    if found > limit { Err(Refusal::TooComplex { what, found, limit }) } else { Ok(()) }
}

/// Tells what people pass instead of a component.
fn recognise(bytes: &[u8]) -> Result<(), Refusal> {
    let invalid = |text: &str| Err(Refusal::Invalid(text.to_owned()));
    match bytes {
        [] => invalid("the input is empty"),
        [0, b'a', b's', b'm', version @ ..] => match version {
            [1, 0, 0, 0, ..] => invalid(
                "this is a core WebAssembly module, not a component; make it one with `wasm-tools component new`",
            ),
            [0x0d, 0, 1, 0, ..] => Ok(()),
            [version, _, 1, 0, ..] => Err(Refusal::Invalid(format!(
                "this component has the pre-release encoding {version:#x}; rebuild it with a current toolchain"
            ))),
            _ => invalid("the WebAssembly header is cut off or of an unknown version"),
        },
        [0x7f, b'E', b'L', b'F', ..] => invalid(
            "this is an ELF file: a native program, or code that wasmtime compiled before; load the .wasm component itself",
        ),
        _ => invalid("this is not WebAssembly: the first four bytes must be \"\\0asm\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds =
        Bounds { bytes: 1 << 20, functions: 10, instances: 20, adapters: 50, nesting: 5, values: 10_000 };

    fn look(wat: &str) -> Result<Facts, Refusal> {
        inspect(&wat::parse_str(wat).unwrap(), BOUNDS)
    }

    #[test]
    fn what_is_not_a_component_is_named() {
        let cases: [(&[u8], &str); 8] = [
            (b"", "empty"),
            (b"hello", "not WebAssembly"),
            (b"\0as", "not WebAssembly"),
            (b"\0asm", "cut off"),
            (b"\0asm\x01\0\0\0", "core WebAssembly module"),
            (b"\0asm\x0c\0\x01\0", "pre-release encoding 0xc"),
            (b"\x7fELF\x02\x01\x01\0", "ELF"),
            (b"\0asm\x0d\0\x01\0\x01\xff", "unexpected end"),
        ];
        for (bytes, expected) in cases {
            match inspect(bytes, BOUNDS) {
                Err(Refusal::Invalid(text)) => assert!(text.contains(expected), "{bytes:?}: {text}"),
                other => panic!("{bytes:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn custom_sections_are_those_of_the_component_itself() {
        let part = r#"(component (@custom "x" "inner")) (core module (@custom "x" "module"))"#;
        let wat = format!(r#"(component {part} (@custom "x" "one") (@custom "y" "other") (@custom "x" "two"))"#);
        let bytes = wat::parse_str(wat).unwrap();
        assert_eq!(custom_sections(&bytes, "x"), [b"one", b"two"]);
    }

    #[test]
    fn types_of_functions_are_for_nobody_else() {
        let named = [
            r#"(component (type $f (func)) (export "run" (type $f)))"#,
            r#"(component (type $f (func)) (import "run" (type (eq $f))))"#,
            r#"(component (type $f (func)) (instance $i (export "run" (type $f))) (export "all" (instance $i)))"#,
            r#"(component (type $f (func)) (component (alias outer 1 $f (type $g)) (export "run" (type $g))))"#,
            r#"(component (import "all" (instance (type $f (func)) (export "run" (type (eq $f))))))"#,
            r#"(component (type (component (type $f (func)) (import "run" (type (eq $f))))))"#,
        ];
        for wat in named {
            match look(wat) {
                Err(Refusal::Invalid(text)) => assert!(text.contains("\"run\" is the type of a function"), "{text}"),
                other => panic!("{wat}: {other:?}"),
            }
        }
        let functions_and_values = r#"(component
            (type $f (func)) (import "f" (func $run (type $f))) (type $l (list u8))
            (export "run" (func $run)) (export "bytes" (type $l)))"#;
        look(functions_and_values).unwrap();
    }

    #[test]
    fn async_is_seen_wherever_it_hides() {
        let asynchronous = [
            r#"(component (import "wasi:clocks/monotonic-clock@0.3.0" (instance)))"#,
            r#"(component (type (func async)))"#,
            r#"(component (type (instance (type (stream u8)))))"#,
            r#"(component (core func (canon task.cancel)))"#,
        ];
        for wat in asynchronous {
            assert!(look(wat).unwrap().asynchronous, "{wat}");
        }
        assert!(
            !look(r#"(component (import "wasi:cli/environment@0.2.0" (instance)) (type (func)))"#)
                .unwrap()
                .asynchronous
        );
    }

    #[test]
    fn instances_are_counted_with_their_multiplicity() {
        let twice =
            |inner: &str| format!("(component $c {inner}) (instance (instantiate $c)) (instance (instantiate $c))");
        let leaf = "(core module $m) (core instance (instantiate $m)) (core instance (instantiate $m))".to_owned();
        let eight = format!("(component {})", twice(&twice(&leaf)));
        assert_eq!(look(&eight).unwrap().instances, 8);
        let thirty_two = format!("(component {})", twice(&twice(&twice(&twice(&leaf)))));
        assert_eq!(look(&thirty_two), Err(Refusal::TooComplex { what: "core_instances", found: 32, limit: 20 }));
        let by_alias = r#"(component $root (component $c (core module $m) (core instance (instantiate $m)) (core instance (instantiate $m)))
            (component $d (alias outer $root $c (component $e)) (instance (instantiate $e)) (instance (instantiate $e)))
            (instance (instantiate $d)))"#;
        assert_eq!(look(by_alias).unwrap().instances, 4);
    }

    #[test]
    fn bounds_name_what_is_too_large() {
        let nested = format!("{}{}", "(component ".repeat(7), ")".repeat(7));
        assert_eq!(look(&nested), Err(Refusal::TooComplex { what: "nesting", found: 6, limit: 5 }));
        for part in ["(func)", r#"(import "" "" (func))"#, "(global i32 (i32.const 0))"] {
            let eleven = format!("(component (core module {}))", part.repeat(11));
            assert_eq!(look(&eleven), Err(Refusal::TooComplex { what: "functions", found: 11, limit: 10 }));
        }
        let big = vec![0; (1 << 20) + 1];
        assert!(matches!(inspect(&big, BOUNDS), Err(Refusal::TooComplex { what: "component_bytes", .. })));
    }

    /// Neither has a core instance of its own; compiled, both are as large as they are nested.
    #[test]
    fn parts_and_adapters_are_counted_with_their_multiplicity() {
        let nest = |import: &str, leaf: &str, with: &str| {
            let parts = format!("(instance (instantiate $c {with}))").repeat(3);
            let nested = (0..3).fold(leaf.to_owned(), |inner, _| format!("(component $c {import} {inner}) {parts}"));
            let bytes = wat::parse_str(format!("(component {import} {nested})")).unwrap();
            inspect(&bytes, Bounds { functions: 100, ..BOUNDS })
        };
        let empty = nest("", "", "").unwrap();
        assert_eq!((empty.instances, empty.adapters), (0, 3 + 9 + 27));
        let lowering =
            nest(r#"(import "f" (func $f))"#, "(core func (canon lower (func $f)))", r#"(with "f" (func $f))"#);
        assert_eq!(lowering, Err(Refusal::TooComplex { what: "adapters", found: 3 + 9 + 27 + 27, limit: 50 }));
    }

    /// Twelve instances, each of which exports the one before twice: some hundred bytes that stand for thousands.
    #[test]
    fn exports_of_instances_are_counted_with_their_multiplicity() {
        let double = |first: &str, next: &dyn Fn(usize) -> String| {
            let rest: String = (1..12).map(next).collect();
            look(&format!("(component {first} {rest})"))
        };
        let by_value = double(r#"(import "f" (func $f)) (instance $t0 (export "f" (func $f)))"#, &|i| {
            let inner = i - 1;
            format!(r#"(instance $t{i} (export "a" (instance $t{inner})) (export "b" (instance $t{inner})))"#)
        });
        let by_type = |last: &str| {
            look(&format!(
                r#"(component (type $t0 (instance (export "f" (func)))) {} {last})"#,
                (1..12)
                    .map(|i| format!(
                        r#"(type $t{i} (instance (alias outer 1 $t{} (type $p))
                            (export "a" (instance (type $p))) (export "b" (instance (type $p)))))"#,
                        i - 1
                    ))
                    .collect::<String>()
            ))
        };
        for refused in [by_value, by_type(r#"(import "x" (instance (type $t11)))"#)] {
            assert!(matches!(refused, Err(Refusal::TooComplex { what: "functions", .. })), "{refused:?}");
        }
        assert!(by_type("").is_ok(), "a type that nothing has costs nothing");
    }

    /// What was found is what the bounds were held against: a component passes those that it fits, and no narrower ones.
    #[test]
    fn what_was_found_tells_which_bounds_a_component_passes() {
        let part = r#"(core module $m (type (func)) (func loop loop end end) (func (param i32)) (memory 1))
            (core instance (instantiate $m)) (core instance (instantiate $m))"#;
        let composed = format!("(component $c {part}) (instance (instantiate $c)) (instance (instantiate $c))");
        let exports = r#"(import "f" (func $f)) (instance $a (export "f" (func $f)) (export "g" (func $f)))
            (instance (export "a" (instance $a)) (export "b" (instance $a)) (export "c" (instance $a)))"#;
        let roomy = Bounds { functions: 1_000, values: 10_000_000, ..BOUNDS };
        for body in [part, &composed, exports, "", "(component (component))"] {
            let bytes = wat::parse_str(format!("(component {body})")).unwrap();
            let found = inspect(&bytes, roomy).unwrap();
            let exact = Bounds {
                bytes: found.bytes,
                functions: found.functions as u32,
                instances: found.instances as u32,
                adapters: found.adapters as u32,
                nesting: found.nesting as u32,
                values: found.values,
            };
            assert_eq!((inspect(&bytes, exact), found.within(&exact)), (Ok(found), Ok(())), "{body}");
            let less = |number: u32| number.saturating_sub(1);
            for narrow in [
                Bounds { bytes: exact.bytes - 1, ..exact },
                Bounds { functions: less(exact.functions), ..exact },
                Bounds { instances: less(exact.instances), ..exact },
                Bounds { adapters: less(exact.adapters), ..exact },
                Bounds { nesting: less(exact.nesting), ..exact },
                Bounds { values: exact.values.saturating_sub(1), ..exact },
            ] {
                let (again, told) = (inspect(&bytes, narrow).err(), found.within(&narrow).err());
                assert_eq!(again.is_some(), told.is_some(), "{body}: {narrow:?}");
            }
        }
    }

    #[test]
    fn loops_are_counted_and_blocks_are_not() {
        let nested = |what: &str, depth: usize| {
            let body = format!("{}{}", format!("{what} ").repeat(depth), "end ".repeat(depth));
            look(&format!("(component (core module (func {body} loop end loop end)))"))
        };
        assert!(nested("block", 1_000).is_ok() && nested("loop", 5).is_ok());
        assert_eq!(nested("loop", 6), Err(Refusal::TooComplex { what: "nesting", found: 6, limit: 5 }));
    }

    /// Each is some bytes to the validator, and thousands of values to the compiler.
    #[test]
    fn values_are_counted_that_bytes_do_not_tell() {
        let hundred = "i32 ".repeat(100);
        let wide = format!("(type $t (func (param {hundred}) (result {hundred})))");
        let passed = "local.get 0 ".repeat(100);
        let alive = "i32.load local.get 0 ".repeat(100) + &"if end local.get 0 ".repeat(200);
        for body in [
            format!("(func (local {}))", "i32 ".repeat(10_001)),
            format!(r#"{wide} (import "" "" (func $f (type $t))) (func (type $t) {passed} {})"#, "call $f ".repeat(50)),
            format!("{wide} (func (type $t) {passed} {})", "local.get 0 br_if 0 ".repeat(50)),
            format!("{wide} (func (type $t) {passed} local.get 0 br_table {})", "0 ".repeat(50)),
            format!("(memory 1) (func (param i32) local.get 0 {alive} drop)"),
            "(table 10001 funcref)".to_owned(),
            "(memory 1)".to_owned(),
        ] {
            let refused = look(&format!("(component (core module {body}))"));
            assert!(matches!(refused, Err(Refusal::TooComplex { what: "values", .. })), "{body}: {refused:?}");
        }
        let types = look(&format!("(component (core module {}))", "(type (func))".repeat(11)));
        assert_eq!(types, Err(Refusal::TooComplex { what: "functions", found: 11, limit: 10 }));
        let harmless = look("(component (core module (func (param i32) (local i32 i32) (if (local.get 0) (then)))))");
        assert!(harmless.is_ok(), "{harmless:?}");
    }

    #[test]
    fn parts_are_the_components_with_code() {
        let code = "(core module $m) (core instance (instantiate $m)) (core instance (instantiate $m))";
        assert_eq!(look("(component)").unwrap().parts, 1);
        assert_eq!(look(&format!("(component {code})")).unwrap().parts, 1);
        let composed = format!(
            "(component $c {code}) (component $d) (instance (instantiate $c)) (instance (instantiate $c)) (instance (instantiate $d))"
        );
        assert_eq!(look(&format!("(component {composed})")).unwrap().parts, 2);
        assert_eq!(look(&format!("(component {composed} {code})")).unwrap().parts, 3);
    }

    /// Without its bound, this test ends the process.
    #[test]
    fn deeply_nested_types_do_not_overflow_the_stack() {
        for depth in [100, 250, 10_000, 300_000] {
            let mut bytes = b"\0asm\x0d\0\x01\0\x07".to_vec();
            let body: Vec<u8> = std::iter::once(1)
                .chain(std::iter::repeat_n([0x42u8, 1, 1], depth).flatten())
                .chain([0x42, 0])
                .collect();
            let mut length = body.len();
            while length >= 0x80 {
                bytes.push((length as u8 & 0x7f) | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
            bytes.extend(body);
            let refused = inspect(&bytes, Bounds { bytes: 1 << 24, ..BOUNDS });
            assert_eq!(refused.is_ok(), depth < 250, "{depth} levels: {refused:?}");
        }
    }
}
