// What a script of isopod finds besides the language, ECMAScript 2024. Use it with `"lib": ["ES2024"]`, without "DOM", and
// with `"erasableSyntaxOnly": true`.
//
// What a grant is needed for fails without it, as a DOMException named "NotAllowedError"; only `config.get` gives
// `undefined`.

/** The second argument of a script's default export. */
interface Context {
    /** The name that the script was loaded under. */
    readonly function: string;
    /** Whom the call is for. */
    readonly tenant?: string;
    /** The number of the call; not there in a deterministic script. */
    readonly callId?: number;
}

/** Writes to the log of the call. */
declare const console: Record<"trace" | "debug" | "log" | "info" | "warn" | "error", (...values: unknown[]) => void> & {
    assert(holds: unknown, ...values: unknown[]): void;
};

/** Timers end with the call. */
declare function setTimeout<T extends unknown[]>(call: (...values: T) => void, ms?: number, ...values: T): number;
declare function setInterval<T extends unknown[]>(call: (...values: T) => void, ms?: number, ...values: T): number;
declare function clearTimeout(id?: number): void;
declare function clearInterval(id?: number): void;

declare function atob(text: string): string;
declare function btoa(text: string): string;
/** A copy of plain data. Functions, and what keeps something of its own such as a URL, cannot be copied. */
declare function structuredClone<T>(value: T): T;

declare const crypto: {
    getRandomValues<T extends ArrayBufferView>(array: T): T;
    randomUUID(): string;
};

declare class TextEncoder {
    readonly encoding: "utf-8";
    encode(text?: string): Uint8Array;
    encodeInto(text: string, to: Uint8Array): { read: number; written: number };
}

declare class TextDecoder {
    constructor(encoding?: string, options?: { fatal?: boolean; ignoreBOM?: boolean });
    readonly encoding: "utf-8";
    readonly fatal: boolean;
    readonly ignoreBOM: boolean;
    decode(from?: ArrayBuffer | ArrayBufferView): string;
}

declare class DOMException extends Error {
    constructor(message?: string, name?: string);
    readonly code: number;
}

/** https://url.spec.whatwg.org */
declare class URL {
    constructor(text: string | URL, base?: string | URL);
    static canParse(text: string | URL, base?: string | URL): boolean;
    static parse(text: string | URL, base?: string | URL): URL | null;
    href: string;
    readonly origin: string;
    protocol: string;
    username: string;
    password: string;
    host: string;
    hostname: string;
    port: string;
    pathname: string;
    search: string;
    hash: string;
    readonly searchParams: URLSearchParams;
    toString(): string;
    toJSON(): string;
}

declare class URLSearchParams implements Iterable<[string, string]> {
    constructor(init?: string | Iterable<[string, string]> | Record<string, string>);
    readonly size: number;
    append(name: string, value: string): void;
    delete(name: string, value?: string): void;
    get(name: string): string | null;
    getAll(name: string): string[];
    has(name: string, value?: string): boolean;
    set(name: string, value: string): void;
    sort(): void;
    forEach(call: (value: string, name: string, params: URLSearchParams) => void, self?: unknown): void;
    entries(): IterableIterator<[string, string]>;
    keys(): IterableIterator<string>;
    values(): IterableIterator<string>;
    [Symbol.iterator](): IterableIterator<[string, string]>;
    toString(): string;
}

type HeadersInit = Headers | Iterable<[string, string | Secret]> | Record<string, string | Secret>;

/** A header whose value is a Secret shows as `[secret]`, and has the value where the request is granted it. */
declare class Headers implements Iterable<[string, string]> {
    constructor(init?: HeadersInit);
    append(name: string, value: string | Secret): void;
    delete(name: string): void;
    get(name: string): string | null;
    getSetCookie(): string[];
    has(name: string): boolean;
    set(name: string, value: string | Secret): void;
    forEach(call: (value: string, name: string, headers: Headers) => void, self?: unknown): void;
    entries(): IterableIterator<[string, string]>;
    keys(): IterableIterator<string>;
    values(): IterableIterator<string>;
    [Symbol.iterator](): IterableIterator<[string, string]>;
}

type BodyInit = string | ArrayBuffer | ArrayBufferView | URLSearchParams | null;

interface RequestInit {
    method?: string;
    headers?: HeadersInit;
    body?: BodyInit;
    /** What becomes of a redirect. Each is a request that must be granted. Default: "follow", up to 20 times. */
    redirect?: "follow" | "error" | "manual";
}

/** What a request and a response have in common. */
interface Body {
    /** Its pieces as they come, once. */
    readonly body: (AsyncIterable<Uint8Array> & { getReader(): { read(): Promise<{ value?: Uint8Array; done: boolean }> } }) | null;
    readonly bodyUsed: boolean;
    arrayBuffer(): Promise<ArrayBuffer>;
    bytes(): Promise<Uint8Array>;
    json(): Promise<any>;
    text(): Promise<string>;
}

declare class Request {
    constructor(input: string | URL | Request, init?: RequestInit);
    readonly url: string;
    readonly method: string;
    readonly headers: Headers;
    readonly redirect: string;
}
interface Request extends Body {}

declare class Response {
    constructor(body?: BodyInit, init?: { status?: number; statusText?: string; headers?: HeadersInit });
    static json(value: unknown, init?: { status?: number; statusText?: string; headers?: HeadersInit }): Response;
    readonly status: number;
    readonly statusText: string;
    readonly ok: boolean;
    readonly headers: Headers;
    readonly url: string;
    readonly redirected: boolean;
}
interface Response extends Body {}

/** Granted by `Http`. Requests overlap; those beyond what may be under way at once wait. */
declare function fetch(input: string | URL | Request, init?: RequestInit): Promise<Response>;

/** Keys and values, of the tenant that the call is for. */
interface Bucket {
    /** The value of a key, or null. */
    get(key: string, type?: "text"): Promise<string | null>;
    get(key: string, type: "bytes"): Promise<Uint8Array | null>;
    get(key: string, type: "json"): Promise<any>;
    /** Keeps a text, bytes, or anything else as JSON. */
    set(key: string, value: unknown): Promise<void>;
    delete(key: string): Promise<void>;
    /** Adds an integer to a number that is kept as text, and gives the sum. A key that is not there counts as 0. */
    increment(key: string, by?: number): Promise<number>;
    /** At most 500 keys, in the order of their bytes; `after` is there if more follow, and asks for the next page. */
    list(options?: { prefix?: string; after?: string }): Promise<{ keys: string[]; after?: string }>;
}

/** Granted by `KeyValue`. Itself it is the first bucket that was granted. */
declare const kv: Bucket & { bucket(name: string): Bucket };

/** A value that can be used and not read. It shows as `[secret]`. */
interface Secret {
    /** The same secret, with a text before it where it stands in a header: `secrets.get("key").prefixed("Bearer ")`. */
    prefixed(text: string): Secret;
    /** Whether that is the value. Takes as long for a wrong one as for the right one. */
    equals(candidate: string | ArrayBuffer | ArrayBufferView): Promise<boolean>;
    /** The value, if the grant allows reading it. */
    reveal(): Promise<string>;
}

/** Granted by `Secrets`, and for headers by `Http::secret`. */
declare const secrets: { get(name: string): Secret };

/** Granted by `Config`. */
declare const config: { get(name: string): string | undefined };

/** Calls another function, granted by `Functions` if it was loaded as `callable`: a script with an input, or an export of a
 * component with a list of arguments. Calls begin when the script awaits something, and run one after the other, beside
 * requests and timers; under `Limits::fuel` these are told of when the call is over. */
declare function call(name: string, input?: unknown): Promise<any>;
declare function call(name: string, values: unknown[], name_of_export: string): Promise<any>;
