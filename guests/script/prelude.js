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
        if (isSecret(value)) return "[secret]";
        if (value instanceof URL) return value.href;
        if (value instanceof Headers) return `Headers ${show(Object.fromEntries(value), depth, above)}`;
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

    // What the host does meanwhile. The numbers are those of `task` in `interpreter.wit`.

    const [SLEEP, FETCH, READ, GET, SET, DELETE, INCREMENT, SCAN, EQUALS, REVEAL, CALL] = Array(11).keys();

    function ask(task, ...values) {
        // Where the script asked: what fails is made where nobody called.
        const { stack } = new Error();
        return new Promise((resolve, reject) => {
            native.begin(task, (value, name, message) => {
                if (name === undefined) return resolve(value);
                const error = name === "TypeError" ? new TypeError(message) : new DOMException(message, name);
                reject(Object.defineProperty(error, "stack", { value: stack, writable: true, configurable: true }));
            }, ...values);
        });
    }

    // Timers. They end with the call, as everything does.

    let next = 1, timers = null;
    function begin(call, ms, values, again) {
        if (typeof call !== "function") throw new TypeError("a timer needs a function");
        const id = next++;
        // Not sooner: a Map that is frozen with entries would be hashed by the seed of another instance.
        timers ??= new Map();
        const length = again ? Math.max(1, Number(ms) || 0) : Number(ms) || 0;
        const wait = () => timers.set(id, native.begin(SLEEP, () => {
            if (again) wait(); else timers.delete(id);
            call(...values);
        }, length));
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

    // Settings and secrets.

    define("config", Object.freeze({
        get(name) { return native.config(String(name)) ?? undefined; },
    }));

    // What stands in headers for a secret: the host replaces it on the way out.
    let standIn;
    class Secret {
        #name; #text;
        static { standIn = (secret) => secret.#text; }
        constructor(name, text) {
            this.#name = name;
            this.#text = text;
            Object.freeze(this);
        }
        prefixed(text) { return new Secret(this.#name, String(text) + this.#text); }
        equals(candidate) {
            return ask(EQUALS, this.#name, typeof candidate === "string" ? native.encode(candidate) : bytes(candidate));
        }
        async reveal() { return native.decode(await ask(REVEAL, this.#name), false); }
        toString() { return "[secret]"; }
        toJSON() { return "[secret]"; }
        get [Symbol.toStringTag]() { return "Secret"; }
    }
    const isSecret = (value) => value instanceof Secret;

    define("secrets", Object.freeze({
        get(name) {
            const text = native.secret(String(name));
            if (text === null) throw new DOMException(`no secret "${name}" is granted`, "NotAllowedError");
            return new Secret(String(name), text);
        },
    }));

    // Keys and values.

    class Bucket {
        #name;
        constructor(name) { this.#name = name; }
        async get(key, type = "text") {
            if (!["text", "json", "bytes"].includes(type)) throw new TypeError(`a value is "text", "json" or "bytes", not "${type}"`);
            const value = await ask(GET, this.#name, key);
            if (value === null || type === "bytes") return value;
            const text = native.decode(value, false);
            return type === "json" ? JSON.parse(text) : text;
        }
        async set(key, value) {
            const isBytes = ArrayBuffer.isView(value) || value instanceof ArrayBuffer;
            const text = typeof value === "string" || isBytes ? value : JSON.stringify(value);
            if (text === undefined) throw new TypeError("a value is a text, bytes, or what has a form in JSON");
            await ask(SET, this.#name, key, isBytes ? bytes(value) : native.encode(text));
        }
        async delete(key) { await ask(DELETE, this.#name, key); }
        async increment(key, by = 1) {
            if (!Number.isSafeInteger(by)) throw new TypeError("a value is incremented by an integer");
            return ask(INCREMENT, this.#name, key, by);
        }
        async list({ prefix, after } = {}) {
            const { keys, more } = await ask(SCAN, this.#name, prefix, after);
            return { keys, after: more ? keys.at(-1) : undefined };
        }
    }
    define("kv", Object.freeze(Object.assign(new Bucket(null), { bucket(name) { return Object.freeze(new Bucket(String(name))); } })));

    // Other functions.

    define("call", async function call(name, input = null, exported) {
        if (exported !== undefined && !Array.isArray(input)) throw new TypeError("the arguments of an export are an array");
        const [list, named] = exported === undefined ? [[input], "default"] : [input, exported];
        return JSON.parse(await ask(CALL, name, named, JSON.stringify(list)));
    });

    // URLs: https://url.spec.whatwg.org. The host reads them.

    const plus = /%20/g, unescaped = /[!'()~]/g;
    const escape = (text) => encodeURIComponent(text.toWellFormed()).replace(unescaped, (char) => `%${hex(char.charCodeAt(0)).toUpperCase()}`).replace(plus, "+");
    function unescape(text) {
        const from = native.encode(text.replaceAll("+", " "));
        if (!from.includes(37)) return native.decode(from, false);
        const to = new Uint8Array(from.length);
        let length = 0;
        for (let at = 0; at < from.length; at++) {
            const digits = from[at] === 37 ? String.fromCharCode(from[at + 1] ?? 0, from[at + 2] ?? 0) : "";
            if (/^[\da-fA-F]{2}$/.test(digits)) at += 2;
            to[length++] = digits && /^[\da-fA-F]{2}$/.test(digits) ? parseInt(digits, 16) : from[at];
        }
        return native.decode(to.slice(0, length), false);
    }

    let reread;
    class URLSearchParams {
        #pairs = []; #changed = null;
        static {
            // The URL that they belong to has changed.
            reread = (params, search) => {
                params.#pairs = [];
                params.#parse(search);
            };
        }
        constructor(init = "", changed) {
            if (typeof init === "object" && init !== null) {
                const pairs = typeof init[Symbol.iterator] === "function" ? init : Object.entries(init);
                for (const pair of pairs) {
                    const [name, value, ...rest] = pair;
                    if (value === undefined || rest.length) throw new TypeError("a parameter is a pair of a name and a value");
                    this.#pairs.push([String(name), String(value)]);
                }
            } else {
                this.#parse(String(init));
            }
            this.#changed = typeof changed === "function" ? changed : null;
        }
        #parse(text) {
            for (const part of text.replace(/^\?/, "").split("&")) {
                if (!part) continue;
                const at = part.indexOf("=");
                this.#pairs.push(at < 0 ? [unescape(part), ""] : [unescape(part.slice(0, at)), unescape(part.slice(at + 1))]);
            }
        }
        #change(pairs) {
            this.#pairs = pairs;
            this.#changed?.(this.toString());
        }
        get size() { return this.#pairs.length; }
        append(name, value) { this.#change([...this.#pairs, [String(name), String(value)]]); }
        delete(name, value) {
            this.#change(this.#pairs.filter(([n, v]) => n !== String(name) || (value !== undefined && v !== String(value))));
        }
        get(name) { return this.#pairs.find(([n]) => n === String(name))?.[1] ?? null; }
        getAll(name) { return this.#pairs.filter(([n]) => n === String(name)).map(([, value]) => value); }
        has(name, value) { return this.#pairs.some(([n, v]) => n === String(name) && (value === undefined || v === String(value))); }
        set(name, value) {
            const first = this.#pairs.findIndex(([n]) => n === String(name));
            if (first < 0) return this.append(name, value);
            this.#change(this.#pairs
                .filter(([n], at) => n !== String(name) || at === first)
                .map(([n, v]) => [n, n === String(name) ? String(value) : v]));
        }
        sort() { this.#change([...this.#pairs].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))); }
        forEach(call, self) { for (const [name, value] of this.#pairs) call.call(self, value, name, this); }
        *entries() { for (const [name, value] of this.#pairs) yield [name, value]; }
        *keys() { for (const [name] of this.#pairs) yield name; }
        *values() { for (const [, value] of this.#pairs) yield value; }
        [Symbol.iterator]() { return this.entries(); }
        toString() { return this.#pairs.map(([name, value]) => `${escape(name)}=${escape(value)}`).join("&"); }
        get [Symbol.toStringTag]() { return "URLSearchParams"; }
    }
    define("URLSearchParams", URLSearchParams);

    const PARTS = ["href", "origin", "protocol", "username", "password", "host", "hostname", "port", "pathname", "search", "hash"];
    class URL {
        #parts; #params = null;
        constructor(text, base) {
            this.#parts = native.url(text, base);
            if (!this.#parts) throw new TypeError(`invalid URL: ${text}`);
        }
        static {
            for (const [at, part] of PARTS.entries()) {
                Object.defineProperty(URL.prototype, part, {
                    get() { return this.#parts[at]; },
                    set: part === "origin" ? undefined : function (value) {
                        if (part === "href" && !native.url(value)) throw new TypeError(`invalid URL: ${value}`);
                        this.#parts = native.withPart(this.#parts[0], part, value) ?? this.#parts;
                        if (this.#params && (part === "href" || part === "search")) reread(this.#params, this.search);
                    },
                    enumerable: true,
                    configurable: true,
                });
            }
        }
        static canParse(text, base) { return native.url(text, base) !== null; }
        static parse(text, base) { return URL.canParse(text, base) ? new URL(text, base) : null; }
        get searchParams() {
            return (this.#params ??= new URLSearchParams(this.search, (text) => {
                this.#parts = native.withPart(this.#parts[0], "search", text) ?? this.#parts;
            }));
        }
        toString() { return this.href; }
        toJSON() { return this.href; }
        get [Symbol.toStringTag]() { return "URL"; }
    }
    define("URL", URL);

    // Requests: https://fetch.spec.whatwg.org, as far as scripts need it.

    const TOKEN = /^[!#$%&'*+.^_`|~\w-]+$/;
    let sent, harmless;
    class Headers {
        // By their names in small letters, in a list, as a header may be there several times.
        #fields = [];
        static {
            // Names and values in turn, as they are sent.
            sent = (headers) => headers.#fields.flatMap(([name, value]) => [name, isSecret(value) ? standIn(value) : value]);
            // Those that go along to another origin.
            const own = ["authorization", "cookie", "proxy-authorization"];
            harmless = (headers) => new Headers(headers.#fields.filter(([name, value]) => !isSecret(value) && !own.includes(name)));
        }
        constructor(init) {
            if (init === undefined || init === null) return;
            if (typeof init !== "object") throw new TypeError("headers are an object or pairs of names and values");
            // Whoever copies headers copies secrets as what they are.
            const pairs = #fields in init ? init.#fields : typeof init[Symbol.iterator] === "function" ? init : Object.entries(init);
            for (const pair of pairs) {
                const [name, value, ...rest] = pair;
                if (value === undefined || rest.length) throw new TypeError("a header is a pair of a name and a value");
                this.append(name, value);
            }
        }
        static #name(name) {
            if (!TOKEN.test(String(name))) throw new TypeError(`a header cannot be named ${quote(String(name))}`);
            return String(name).toLowerCase();
        }
        static #value(value) {
            if (isSecret(value)) return value;
            const text = String(value).replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, "");
            if (/[\0\r\n]|[^\0-\xff]/.test(text)) throw new TypeError(`a header cannot have the value ${quote(text)}`);
            return text;
        }
        append(name, value) { this.#fields.push([Headers.#name(name), Headers.#value(value)]); }
        delete(name) {
            const wanted = Headers.#name(name);
            this.#fields = this.#fields.filter(([known]) => known !== wanted);
        }
        get(name) {
            const wanted = Headers.#name(name), values = this.#fields.filter(([known]) => known === wanted).map(([, value]) => String(value));
            return values.length ? values.join(", ") : null;
        }
        getSetCookie() { return this.#fields.filter(([name]) => name === "set-cookie").map(([, value]) => String(value)); }
        has(name) {
            const wanted = Headers.#name(name);
            return this.#fields.some(([known]) => known === wanted);
        }
        set(name, value) {
            const checked = Headers.#value(value);
            this.delete(name);
            this.append(name, checked);
        }
        forEach(call, self) { for (const [name, value] of this) call.call(self, value, name, this); }
        *entries() {
            for (const name of [...new Set(this.#fields.map(([known]) => known))].sort()) {
                if (name === "set-cookie") for (const cookie of this.getSetCookie()) yield [name, cookie];
                else yield [name, this.get(name)];
            }
        }
        *keys() { for (const [name] of this.entries()) yield name; }
        *values() { for (const [, value] of this.entries()) yield value; }
        [Symbol.iterator]() { return this.entries(); }
        get [Symbol.toStringTag]() { return "Headers"; }
    }
    define("Headers", Headers);

    // What a body is given as: its bytes, and their type.
    function bodyOf(body) {
        if (body === undefined || body === null) return [null, null];
        if (typeof body === "string") return [native.encode(body), "text/plain;charset=UTF-8"];
        if (body instanceof URLSearchParams) return [native.encode(String(body)), "application/x-www-form-urlencoded;charset=UTF-8"];
        if (body instanceof ArrayBuffer || ArrayBuffer.isView(body)) return [bytes(body).slice(), null];
        throw new TypeError("a body is a text, bytes or URLSearchParams; write objects by JSON.stringify");
    }

    let held, come;
    class Body {
        // Bytes that are there, or the number of a body that comes; and whether somebody reads it.
        #held; #coming = null; #used = false;
        static {
            held = (body) => body.#held;
            come = (body, number) => { body.#coming = number; };
        }
        constructor(bytes) { this.#held = bytes; }
        get bodyUsed() { return this.#used; }
        #use() {
            if (this.#used) throw new TypeError("the body was read already");
            this.#used = this.#held !== null || this.#coming !== null;
        }
        async #next() {
            if (this.#coming !== null) {
                const piece = await ask(READ, this.#coming);
                if (piece === null) this.#coming = null;
                return piece;
            }
            const piece = this.#held;
            this.#held = null;
            return piece;
        }
        get body() {
            if (this.#held === null && this.#coming === null) return null;
            const next = () => this.#next();
            const begin = () => this.#use();
            return {
                getReader() {
                    begin();
                    return { async read() { const value = await next(); return value === null ? { value: undefined, done: true } : { value, done: false }; } };
                },
                async *[Symbol.asyncIterator]() {
                    begin();
                    for (let piece; (piece = await next()) !== null; ) yield piece;
                },
            };
        }
        async bytes() {
            this.#use();
            const pieces = [];
            let length = 0;
            for (let piece; (piece = await this.#next()) !== null; length += piece.length) pieces.push(piece);
            if (pieces.length === 1) return pieces[0];
            const all = new Uint8Array(length);
            let at = 0;
            for (const piece of pieces) {
                all.set(piece, at);
                at += piece.length;
            }
            return all;
        }
        async arrayBuffer() {
            const all = await this.bytes();
            return all.buffer.slice(all.byteOffset, all.byteOffset + all.byteLength);
        }
        async text() { return new TextDecoder().decode(await this.bytes()); }
        async json() { return JSON.parse(await this.text()); }
    }

    const METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"];
    class Request extends Body {
        #url; #method; #headers; #redirect;
        constructor(input, init = {}) {
            const from = input instanceof Request ? input : null;
            const [given, type] = init.body !== undefined ? bodyOf(init.body) : [from && held(from), null];
            super(given);
            this.#url = from ? from.url : new URL(input).href;
            const method = String(init.method ?? from?.method ?? "GET"), upper = method.toUpperCase();
            this.#method = METHODS.includes(upper) ? upper : method;
            if (!TOKEN.test(method)) throw new TypeError(`there is no method ${quote(method)}`);
            if (given && ["GET", "HEAD"].includes(this.#method)) throw new TypeError(`a ${this.#method} request has no body`);
            this.#headers = new Headers(init.headers ?? from?.headers);
            if (type && !this.#headers.has("content-type")) this.#headers.set("content-type", type);
            this.#redirect = String(init.redirect ?? from?.redirect ?? "follow");
            if (!["follow", "error", "manual"].includes(this.#redirect)) throw new TypeError(`redirect is "follow", "error" or "manual"`);
        }
        get url() { return this.#url; }
        get method() { return this.#method; }
        get headers() { return this.#headers; }
        get redirect() { return this.#redirect; }
        get [Symbol.toStringTag]() { return "Request"; }
    }
    define("Request", Request);

    let answered;
    class Response extends Body {
        #status; #statusText; #headers; #url = ""; #redirected = false;
        static {
            // What came from a server, which may be anything.
            answered = ({ status, headers, body }, url, redirected) => {
                const response = new Response();
                for (let at = 0; at < headers.length; at += 2) response.#headers.append(headers[at], headers[at + 1]);
                come(response, body);
                [response.#status, response.#url, response.#redirected] = [status, url, redirected];
                return response;
            };
        }
        constructor(body = null, { status = 200, statusText = "", headers } = {}) {
            const [given, type] = bodyOf(body);
            super(given);
            if (!Number.isInteger(status) || status < 200 || status > 599) throw new RangeError("a status is from 200 to 599");
            this.#status = status;
            this.#statusText = String(statusText);
            this.#headers = new Headers(headers);
            if (type && !this.#headers.has("content-type")) this.#headers.set("content-type", type);
        }
        static json(value, init) {
            const response = new Response(JSON.stringify(value), init);
            if (!new Headers(init?.headers).has("content-type")) response.headers.set("content-type", "application/json");
            return response;
        }
        get status() { return this.#status; }
        get statusText() { return this.#statusText; }
        get ok() { return this.#status >= 200 && this.#status <= 299; }
        get headers() { return this.#headers; }
        get url() { return this.#url; }
        get redirected() { return this.#redirected; }
        get [Symbol.toStringTag]() { return "Response"; }
    }
    define("Response", Response);

    define("fetch", async function fetch(input, init) {
        const request = new Request(input, init);
        let { url, method, headers } = request, body = held(request);
        for (let hops = 0; ; hops++) {
            const answer = await ask(FETCH, method, url, sent(headers), body);
            const response = answered(answer, url, hops > 0);
            const location = [301, 302, 303, 307, 308].includes(response.status) ? response.headers.get("location") : null;
            if (location === null || request.redirect === "manual") return response;
            native.discard(answer.body);
            if (request.redirect === "error") throw new TypeError(`${url} redirects`);
            if (hops === 20) throw new TypeError(`${url} redirects again and again`);
            const next = new URL(location, url);
            if (method !== "HEAD" && (response.status === 303 ? method !== "GET" : response.status < 303 && method === "POST")) {
                [method, body] = ["GET", null];
                headers = new Headers(headers);
                for (const name of ["content-encoding", "content-language", "content-location", "content-type"]) headers.delete(name);
            }
            if (next.origin !== new URL(url).origin) headers = harmless(headers);
            next.hash ||= new URL(url).hash;
            url = next.href;
        }
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
