// componentize.mjs SOURCE WIT OUTPUT DISABLED-FEATURE...: componentize-js has no command of its own.
import { readFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const [sourcePath, witPath, output, ...disableFeatures] = process.argv.slice(2);
const { component } = await componentize({ sourcePath, witPath, worldName: "app", disableFeatures });
await writeFile(output, component);
