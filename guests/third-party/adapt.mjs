// adapt.mjs CORE-MODULE OUTPUT [WIT]: a component of a WASI preview 1 module, by the reactor adapter that jco ships.
// With WIT if the module does not say its world itself.
import { readFile, writeFile } from "node:fs/promises";
import { componentEmbed, componentNew, preview1AdapterReactorPath } from "@bytecodealliance/jco";

const [module, output, wit] = process.argv.slice(2);
let binary = await readFile(module);
if (wit) {
    binary = await componentEmbed({ binary, witSource: await readFile(wit, "utf8"), worldName: "app", stringEncoding: "utf8" });
}
const adapter = await readFile(preview1AdapterReactorPath());
await writeFile(output, await componentNew(binary, [["wasi_snapshot_preview1", adapter]]));
