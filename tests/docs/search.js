// What the search of a built site finds: node search.js SITE QUERY…
//
// The site's own scripts look, in its own index; only what they would draw is not there. It prints a
// JSON array for each query: the pages that were found, the best first.
"use strict";
const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const vm = require("node:vm");

const [site, ...queries] = process.argv.slice(2);
const nothing = () => null;
const world = vm.createContext({
    console,
    addEventListener: nothing,
    URLSearchParams,
    localStorage: { setItem: nothing, getItem: nothing },
    location: { search: "" },
    document: {
        getElementById: nothing,
        addEventListener: nothing,
        querySelectorAll: () => [],
        documentElement: { dataset: { content_root: "./" } },
        readyState: "loading", // for ever, so that nothing is drawn
    },
});
world.window = world;
const scripts = ["documentation_options.js", "doctools.js", "searchtools.js", "language_data.js"];
for (const script of [...scripts.map((name) => join("_static", name)), "searchindex.js"]) {
    vm.runInContext(readFileSync(join(site, script), "utf8"), world, { filename: script });
}
vm.runInContext("var SPHINX_HIGHLIGHT_ENABLED = false;", world);
world.queries = queries;
const found = vm.runInContext(
    // They are sorted for a list that is filled from its end.
    "queries.map((query) => Search._performSearch(...Search._parseQuery(query)).reverse())",
    world,
);
console.log(JSON.stringify(found.map((results) => results.map((result) => result[0] + result[2]))));
