// For componentize-js and componentize-qjs. A thrown text is the error of the WIT result.
export function handle(input) {
    if (input === "") throw "nothing to do";
    if (input.startsWith("print")) {
        // QuickJS has no console: it shows that it reaches WASI by asking for the time.
        if (globalThis.console) console.log(input);
        else if (!(Date.now() > 0)) throw "no clock";
    }
    return input.toUpperCase();
}
