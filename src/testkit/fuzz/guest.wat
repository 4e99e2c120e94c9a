(memory (export "memory") $PAGES$)
(global $heap (mut i32) (i32.const $HEAP$))
;; What imports wrote to memory below this, was looked at.
(global $seen (mut i32) (i32.const 0))
(global $mode (mut i32) (i32.const 0))

(func (export "cabi_realloc") (param $old i32) (param $old_bytes i32) (param $align i32) (param $bytes i32) (result i32)
    (local $at i32) (local $end i32) (local $has i32)
    (if (i32.eq (global.get $mode) (i32.const 1)) (then (return (i32.const -16))))
    (if (i32.eq (global.get $mode) (i32.const 3)) (then unreachable))
    (local.set $at (i32.and
        (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (if (i32.eq (global.get $mode) (i32.const 2)) (then (local.set $at (i32.or (local.get $at) (i32.const 1)))))
    (local.set $end (i32.add (local.get $at) (local.get $bytes)))
    (if (i32.lt_u (local.get $end) (local.get $at)) (then unreachable))
    (local.set $has (i32.shl (memory.size) (i32.const 16)))
    (if (i32.gt_u (local.get $end) (local.get $has)) (then
        (if (i32.eq (i32.const -1) (memory.grow (i32.add (i32.const 1) (i32.shr_u
                (i32.sub (local.get $end) (local.get $has)) (i32.const 16)))))
            (then unreachable))))
    (global.set $heap (local.get $end))
    (memory.copy (local.get $at) (local.get $old) (local.get $old_bytes))
    (local.get $at))

;; Where the eight bytes are, or 0.
(func $find (param $from i32) (param $to i32) (param $what i64) (result i32)
    (block $no
        (br_if $no (i64.eqz (local.get $what)))
        (br_if $no (i32.lt_u (local.get $to) (i32.const 8)))
        (local.set $to (i32.sub (local.get $to) (i32.const 8)))
        (loop $next
            (br_if $no (i32.gt_u (local.get $from) (local.get $to)))
            (if (i64.eq (i64.load (local.get $from)) (local.get $what)) (then (return (local.get $from))))
            (local.set $from (i32.add (local.get $from) (i32.const 1)))
            (br $next)))
    (i32.const 0))

;; The word at an address, or 0 where there is none.
(func $peek (param $at i32) (result i32)
    (if (result i32) (i32.ge_u (local.get $at) (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 4)))
        (then (i32.const 0))
        (else (i32.load (local.get $at)))))

(func $slot (param $n i32) (result i32)
    (i32.add (i32.const $HANDLES$) (i32.shl (i32.and (local.get $n) (i32.const 63)) (i32.const 2))))

;; What it answers: how many imports returned; and if what must not be found was, which call gave it, and what was
;; there.
(func $answer (param $calls i32) (param $number i32) (param $at i32) (result i32)
    (i32.store (i32.const 32) (local.get $calls))
    (i32.store (i32.const 36) (local.get $number))
    (i32.store (i32.const 16) (i32.const 32))
    (i32.store (i32.const 20) (i32.const 8))
    (if (i32.and (i32.ne (local.get $at) (i32.const 0)) (i32.lt_u (i32.add (local.get $at) (i32.const 24))
            (i32.shl (memory.size) (i32.const 16)))) (then
        (memory.copy (i32.const 40) (local.get $at) (i32.const 24))
        (i32.store (i32.const 20) (i32.const 32))))
    (i32.const 16))

(func (export "isopod-fuzz") (param $script i32) (param $bytes i32) (result i32)
    (local $what i64) (local $left i32) (local $steps i32) (local $pc i32) (local $end i32)
    (local $op i32) (local $a i32) (local $b i32) (local $c i32)
    (local $at i32) (local $calls i32) (local $found i32) (local $base i32)
    (local.set $base (global.get $heap))
    (global.set $seen (global.get $heap))
    (local.set $end (i32.add (local.get $script) (local.get $bytes)))
    (local.set $what (i64.xor (i64.load (local.get $script)) (i64.const {mask})))
    (local.set $left (i32.load offset=8 (local.get $script)))
    (local.set $steps (i32.add (local.get $script) (i32.load offset=12 (local.get $script))))
    (local.set $pc (local.get $steps))
    (block $done
        (loop $next
            (br_if $done (i32.gt_u (i32.add (local.get $pc) (i32.const 16)) (local.get $end)))
            (br_if $done (i32.eqz (local.get $left)))
            (local.set $left (i32.sub (local.get $left) (i32.const 1)))
            (local.set $op (i32.load (local.get $pc)))
            (local.set $a (i32.load offset=4 (local.get $pc)))
            (local.set $b (i32.load offset=8 (local.get $pc)))
            (local.set $c (i32.load offset=12 (local.get $pc)))
            (local.set $pc (i32.add (local.get $pc) (i32.const 16)))
            (block $13 (block $12 (block $11 (block $10 (block $9 (block $8 (block $7 (block $6 (block $5 (block $4
            (block $3 (block $2 (block $1
                (br_table $done $1 $2 $3 $4 $5 $6 $7 $8 $9 $10 $11 $12 $13 $done (local.get $op)))
            ;; 1: call
                (call_indirect (type $call) (local.get $b) (local.get $a))
                (local.set $calls (i32.add (local.get $calls) (i32.const 1)))
                (local.set $found (call $find (global.get $seen) (global.get $heap) (local.get $what)))
                (if (i32.eqz (local.get $found)) (then
                    (local.set $found (call $find (i32.const $ONE$) (i32.const 0x108) (local.get $what)))))
                (if (i32.eqz (local.get $found)) (then
                    (local.set $found (call $find (i32.const $RESULT$) (i32.const $RESULT_END$) (local.get $what)))))
                (global.set $seen (global.get $heap))
                (if (local.get $found) (then
                    (return (call $answer (local.get $calls) (local.get $c) (local.get $found)))))
                (br $next))
            ;; 2: put
                (i32.store (local.get $b) (i32.load (call $slot (local.get $a))))
                (br $next))
            ;; 3: at
                (local.set $at (local.get $a))
                (br $next))
            ;; 4: item
                (if (i32.le_u (call $peek (i32.add (local.get $at) (i32.const 4))) (local.get $b))
                    (then (local.set $pc (i32.add (local.get $pc) (i32.shl (local.get $c) (i32.const 4)))))
                    (else (local.set $at (i32.add (call $peek (local.get $at)) (local.get $a)))))
                (br $next))
            ;; 5: ahead
                (local.set $at (i32.add (local.get $at) (local.get $a)))
                (br $next))
            ;; 6: unless
                (if (i32.ne (i32.and (call $peek (local.get $at)) (local.get $a)) (local.get $b))
                    (then (local.set $pc (i32.add (local.get $pc) (i32.shl (local.get $c) (i32.const 4))))))
                (br $next))
            ;; 7: keep
                (i32.store (call $slot (local.get $a)) (call $peek (local.get $at)))
                (br $next))
            ;; 8: needs
                (if (i32.eqz (i32.load (call $slot (local.get $a))))
                    (then (local.set $pc (i32.add (local.get $pc) (i32.shl (local.get $c) (i32.const 4))))))
                (br $next))
            ;; 9: forget
                (i32.store (call $slot (local.get $a)) (i32.const 0))
                (br $next))
            ;; 10: repeat
                (local.set $c (i32.sub (i32.load (local.get $a)) (i32.const 1)))
                (i32.store (local.get $a) (local.get $c))
                (if (i32.gt_s (local.get $c) (i32.const 0))
                    (then (local.set $pc (i32.add (local.get $steps) (i32.shl (local.get $b) (i32.const 4))))))
                (br $next))
            ;; 11: memory
                (global.set $mode (local.get $a))
                (br $next))
            ;; 12: rewind
                (global.set $heap (local.get $base))
                (global.set $seen (local.get $base))
                (br $next))
            ;; 13: grow
                (local.set $c (memory.grow (local.get $a)))
                (block $full
                    (br_if $full (i32.eq (local.get $c) (i32.const -1)))
                    (loop $touch
                        (br_if $full (i32.eqz (local.get $a)))
                        (local.set $a (i32.sub (local.get $a) (i32.const 1)))
                        (i32.store (i32.shl (i32.add (local.get $c) (local.get $a)) (i32.const 16)) (i32.const 0))
                        (br $touch)))
                (br $next)))
    (call $answer (local.get $calls) (i32.const 0) (i32.const 0)))
