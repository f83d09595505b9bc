// The worker that parses Markdown. It may be ended at any time by `parsing.js`, which gives it one text after the other.

import { tree } from "./trees.js";

addEventListener("message", ({ data: { source, links } }) => postMessage({ tree: tree(source, links) }));
postMessage({ ready: true });
