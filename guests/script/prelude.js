// What scripts find besides the language: evaluated once, before the interpreter is frozen. `native` is in `script.c`.
(function (native) {
    "use strict";
    const define = (name, value) =>
        Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });

    // Nobody is there to share with.
    delete globalThis.SharedArrayBuffer;
    delete globalThis.Atomics;

    // Printing.

    const MAX_DEPTH = 4, MAX_ITEMS = 100;
    const quote = (text) => JSON.stringify(text);
    const key = (name) => (typeof name === "symbol" ? `[${String(name)}]` : /^[A-Za-z_$][\w$]*$/.test(name) ? name : quote(name));

    function items(list, left) {
        return left > MAX_ITEMS ? [...list, `... ${left - MAX_ITEMS} more`] : list;
    }

    function show(value, depth, above) {
        switch (typeof value) {
            case "string": return above.length ? quote(value) : value;
            case "bigint": return `${value}n`;
            case "function": return `[function ${value.name || "without a name"}]`;
            case "object": break;
            default: return Object.is(value, -0) ? "-0" : String(value);
        }
        if (value === null) return "null";
        if (above.includes(value)) return "[circular]";
        if (value instanceof Error) return `${value.name}: ${value.message}`;
        if (value instanceof Date) return isNaN(value) ? "Invalid Date" : value.toISOString();
        if (value instanceof RegExp || value instanceof Promise) return value instanceof Promise ? "Promise" : String(value);
        const inside = (item) => show(item, depth + 1, [...above, value]);
        const name = value.constructor?.name, title = name && name !== "Object" ? `${name} ` : "";
        if (depth >= MAX_DEPTH) return Array.isArray(value) ? "[...]" : `${title}{...}`;
        if (Array.isArray(value)) {
            const list = Array.from({ length: Math.min(value.length, MAX_ITEMS) }, (_, at) => (at in value ? inside(value[at]) : "empty"));
            return `[${items(list, value.length).join(", ")}]`;
        }
        if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
            return `${title}[${items(Array.from(value.slice(0, MAX_ITEMS), String), value.length).join(", ")}]`;
        }
        if (value instanceof Map) {
            const list = [...value].slice(0, MAX_ITEMS).map(([k, v]) => `${inside(k)} => ${inside(v)}`);
            return `${title}{${items(list, value.size).join(", ")}}`;
        }
        if (value instanceof Set) {
            return `${title}{${items([...value].slice(0, MAX_ITEMS).map(inside), value.size).join(", ")}}`;
        }
        const keys = Reflect.ownKeys(value).filter((name) => Object.getOwnPropertyDescriptor(value, name)?.enumerable);
        const list = keys.slice(0, MAX_ITEMS).map((name) => {
            const { value: held, get } = Object.getOwnPropertyDescriptor(value, name) ?? {};
            return `${key(name)}: ${get ? "[getter]" : inside(held)}`;
        });
        return list.length ? `${title}{ ${items(list, keys.length).join(", ")} }` : `${title}{}`;
    }

    function print(value) {
        try {
            return show(value, 0, []);
        } catch (error) {
            return "[cannot be shown]";
        }
    }

    const levels = { trace: 0, debug: 1, log: 2, info: 2, warn: 3, error: 4 };
    const console = {};
    for (const [name, level] of Object.entries(levels)) {
        console[name] = { [name](...values) { native.log(level, values.map(print).join(" ")); } }[name];
    }
    console.assert = function assert(holds, ...values) {
        if (!holds) console.error("assertion failed", ...values);
    };
    define("console", console);

    // Timers. They end with the call, as everything does.

    let next = 1, timers = null;
    function begin(call, ms, values, again) {
        if (typeof call !== "function") throw new TypeError("a timer needs a function");
        const id = next++;
        // Not sooner: a Map that is frozen with entries would be hashed by the seed of another instance.
        timers ??= new Map();
        const length = again ? Math.max(1, Number(ms) || 0) : Number(ms) || 0;
        const wait = () => timers.set(id, native.sleep(length, () => {
            if (again) wait(); else timers.delete(id);
            call(...values);
        }));
        wait();
        return id;
    }
    define("setTimeout", function setTimeout(call, ms, ...values) { return begin(call, ms, values, false); });
    define("setInterval", function setInterval(call, ms, ...values) { return begin(call, ms, values, true); });
    function end(id) {
        if (timers?.has(id)) native.cancel(timers.get(id));
        timers?.delete(id);
    }
    define("clearTimeout", function clearTimeout(id) { end(id); });
    define("clearInterval", function clearInterval(id) { end(id); });

    // Texts and bytes.

    const bytes = (from) => {
        if (from instanceof Uint8Array) return from;
        if (ArrayBuffer.isView(from)) return new Uint8Array(from.buffer, from.byteOffset, from.byteLength);
        if (from instanceof ArrayBuffer) return new Uint8Array(from);
        throw new TypeError("expected an ArrayBuffer or a view of one");
    };

    define("TextEncoder", class TextEncoder {
        get encoding() { return "utf-8"; }
        encode(text = "") { return native.encode(String(text)); }
        encodeInto(text, to) {
            let read = 0, written = 0;
            for (const char of String(text)) {
                const piece = native.encode(char);
                if (written + piece.length > to.length) break;
                to.set(piece, written);
                written += piece.length;
                read += char.length;
            }
            return { read, written };
        }
    });

    define("TextDecoder", class TextDecoder {
        #fatal; #keepsMark;
        constructor(encoding = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
            if (!["utf-8", "utf8", "unicode-1-1-utf-8"].includes(String(encoding).trim().toLowerCase())) {
                throw new RangeError(`there is no decoder for ${encoding}, only for utf-8`);
            }
            this.#fatal = Boolean(fatal);
            this.#keepsMark = Boolean(ignoreBOM);
        }
        get encoding() { return "utf-8"; }
        get fatal() { return this.#fatal; }
        get ignoreBOM() { return this.#keepsMark; }
        decode(from = new Uint8Array(), { stream = false } = {}) {
            if (stream) throw new TypeError("decode takes all bytes at once, not a stream");
            const text = native.decode(bytes(from), this.#fatal);
            return !this.#keepsMark && text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
        }
    });

    define("structuredClone", function structuredClone(value) {
        try {
            return native.clone(value);
        } catch (error) {
            throw new DOMException(error.message, "DataCloneError");
        }
    });

    // Randomness.

    const hex = (byte) => (byte + 256).toString(16).slice(1);
    define("crypto", {
        getRandomValues(array) {
            if (!ArrayBuffer.isView(array) || array instanceof DataView || /Float/.test(array.constructor.name)) {
                throw new DOMException("getRandomValues takes an array of integers", "TypeMismatchError");
            }
            if (array.byteLength > 65536) throw new DOMException("at most 65536 bytes at once", "QuotaExceededError");
            native.random(array);
            return array;
        },
        randomUUID() {
            const drawn = new Uint8Array(16);
            native.random(drawn);
            drawn[6] = (drawn[6] & 0x0f) | 0x40;
            drawn[8] = (drawn[8] & 0x3f) | 0x80;
            const text = Array.from(drawn, hex).join("");
            return [text.slice(0, 8), text.slice(8, 12), text.slice(12, 16), text.slice(16, 20), text.slice(20)].join("-");
        },
    });

    // The second argument of a script's function. Nothing is asked for until somebody looks.

    let call = null;
    const known = () => (call ??= native.context());
    return Object.freeze({
        get function() { return known().function; },
        get tenant() { return known().tenant; },
        get callId() { return known().callId; },
    });
})
