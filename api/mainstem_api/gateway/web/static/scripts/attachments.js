// Files of messages: shown as pictures where the browser shows such safely, else as links.

import { address, authorization } from "./api.js";
import { el, icon } from "./dom.js";
import { line } from "./values.js";

const PICTURES = /^image\/(png|jpeg|gif|webp|avif)$/;
const DATA = /^data:([^;,]*)/;

/** Return what is to be seen of a file. Nothing is fetched from anywhere but this gateway. */
export function attachment(part) {
  const name = line(part.name || part.media_type || "file", 60);
  const label = el("span", {}, name, part.size ? ` · ${size(part.size)}` : "");
  const node = el("span", { class: "attachment" }, icon("file"), label);
  const type = part.media_type === "image/*" ? DATA.exec(part.url)?.[1] : part.media_type;
  if (PICTURES.test(type ?? "")) show(node, part.url, type, name);
  return node;
}

async function show(node, url, type, name) {
  try {
    const data = url.startsWith("data:") ? url : await read(url, type);
    if (data) node.replaceChildren(el("img", { src: data, alt: name }));
  } catch { /* its name stays */ }
}

/** Return a file of this gateway as a `data:` address; null for one of another place. */
async function read(url, type) {
  if (!url.startsWith("/v1/runs/")) return null;
  const response = await fetch(address(url.slice(1)), { headers: authorization() });
  if (!response.ok) throw new Error("The file is gone.");
  const bytes = new Blob([await response.arrayBuffer()], { type });
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = reject;
    reader.readAsDataURL(bytes);
  });
}

const size = (bytes) => (bytes < 1_000_000 ? `${Math.ceil(bytes / 1000)} KB` : `${(bytes / 1_000_000).toFixed(1)} MB`);
