//! The guests of the benches, as text, and their worlds.

/// Answers with the bytes it was given, without looking at them. 128 KiB of memory.
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

/// 16 MiB of memory that begins with 1 MiB of data; writes to as many pages of 4 KiB as it is told, 64 KiB apart at first.
#[allow(dead_code, reason = "not of every bench")]
pub fn big() -> String {
    let data = "\\2a".repeat(1 << 20);
    format!(
        r#"(component
    (core module $m (memory (export "m") 256) (data (i32.const 0) "{data}")
        (func (export "touch") (param $pages i32) (result i32) (local $i i32)
            (loop $next
                (i32.store
                    (i32.or
                        (i32.and (i32.mul (local.get $i) (i32.const 65536)) (i32.const 0xffffff))
                        (i32.mul (i32.shr_u (local.get $i) (i32.const 8)) (i32.const 4096)))
                    (local.get $i))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $next (i32.lt_u (local.get $i) (local.get $pages))))
            (local.get $i)))
    (core instance $i (instantiate $m))
    (func (export "touch") (param "pages" u32) (result u32) (canon lift (core func $i "touch"))))"#
    )
}

/// Calls the host as often as it is told, and gives the sum of what it answers.
#[allow(dead_code, reason = "not of every bench")]
pub const IMPORT: &str = r#"(component
    (import "next" (func $next (param "n" u32) (result u32)))
    (core func $next (canon lower (func $next)))
    (core module $m (import "" "next" (func $next (param i32) (result i32)))
        (func (export "sum") (param $times i32) (result i32) (local $sum i32)
            (loop $again
                (local.set $sum (i32.add (local.get $sum) (call $next (local.get $times))))
                (local.set $times (i32.sub (local.get $times) (i32.const 1)))
                (br_if $again (local.get $times)))
            (local.get $sum)))
    (core instance $i (instantiate $m (with "" (instance (export "next" (func $next))))))
    (func (export "sum") (param "times" u32) (result u32) (canon lift (core func $i "sum"))))"#;
