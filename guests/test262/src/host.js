// What a test finds of its host, and how it ends: run before each test, in both engines.
() => {
    const { apply } = Reflect, { slice, toWellFormed } = String.prototype, { transfer } = ArrayBuffer.prototype;
    const define = (name, value) =>
        Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
    // The name and the message of what was thrown, a line each.
    const show = (thrown) => {
        try {
            const isError = typeof thrown === "object" && thrown !== null;
            const text = isError ? `${thrown.constructor.name}\n${thrown.message}` : `\n${String(thrown)}`;
            return apply(toWellFormed, apply(slice, text, [0, 300]), []);
        } catch {
            return "\nit cannot be shown";
        }
    };
    let end;
    // What comes of a test that waits: nothing, or what failed.
    const over = new Promise((resolve) => { end = resolve; });
    define("print", () => {});
    define("$DONE", (failure) => end(failure ? show(failure) : ""));
    define("$262", {
        global: globalThis,
        detachArrayBuffer(buffer) { apply(transfer, buffer, []); },
    });
    return { show, over };
}
