// Bundles what the page brings of other people's JavaScript, packed, with their licences and a list of what is in which bundle.
// Run by `make libraries` in a copy of this folder, where `npm ci` has put the packages; the folder to write to is the argument.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

const BUNDLES = ["plots", "texts", "paper"];
const [, , target] = process.argv;

// What jspdf loads where a page is to become a PDF as a whole, which nothing here does.
const UNUSED = ["canvg", "html2canvas", "core-js"];

const packageOf = (path) => path.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1];
const described = (name) => JSON.parse(readFileSync(join("node_modules", name, "package.json"), "utf8"));
const licence = (name) => {
  const file = readdirSync(join("node_modules", name)).find((one) => /^licen[cs]e/i.test(one));
  return file ? readFileSync(join("node_modules", name, file), "utf8").trim() : `Its package says: ${described(name).license}.`;
};

const packages = new Set(), list = {};
for (const bundle of BUNDLES) {
  const { metafile, outputFiles } = await build({
    entryPoints: [`${bundle}.js`], bundle: true, minify: true, format: "iife", target: "es2022", legalComments: "none", metafile: true,
    define: { global: "globalThis" }, external: UNUSED, loader: { ".css": "empty" }, write: false, logLevel: "warning",
  });
  const code = Buffer.from(outputFiles[0].contents);
  const used = Object.values(metafile.outputs)[0].inputs;
  const names = [...new Set(Object.keys(used).filter((path) => used[path].bytesInOutput).map(packageOf).filter(Boolean))].sort();
  names.forEach((name) => packages.add(name));
  writeFileSync(join(target, `${bundle}.min.js.gz`), gzipSync(code, { level: 9 }));
  list[bundle] = {
    bytes: code.length,
    sha256: createHash("sha256").update(code).digest("hex"),
    packages: Object.fromEntries(names.map((name) => [name, described(name).version])),
  };
}
writeFileSync(join(target, "libraries.json"), `${JSON.stringify(list, null, 2)}\n`);
const line = "-".repeat(80);
const texts = [...packages].sort().map((name) => `${line}\n${name} ${described(name).version} (${described(name).license})\n${line}\n\n${licence(name)}\n`);
writeFileSync(join(target, "LICENSES.txt"), `Licences of the packages in the bundles beside this file.\n\n${texts.join("\n")}`);
