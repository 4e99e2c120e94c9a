//! The guest of the benches.

/// Answers with the bytes it was given, without looking at them.
pub const ECHO: &str = r#"(component
    (core module $m (memory (export "m") 2) (global $top (mut i32) (i32.const 1024))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (global.get $top))
        (func (export "echo") (param i32 i32) (result i32)
            (i32.store (i32.const 0) (local.get 0)) (i32.store (i32.const 4) (local.get 1)) (i32.const 0)))
    (core instance $i (instantiate $m))
    (alias core export $i "m" (core memory $mem))
    (alias core export $i "realloc" (core func $realloc))
    (func (export "echo") (param "data" (list u8)) (result (list u8))
        (canon lift (core func $i "echo") (memory $mem) (realloc $realloc))))"#;

isopod::world!({
    world: "echo",
    inline: "package bench:echo; world echo { export echo: func(data: list<u8>) -> list<u8>; }",
});
