// Files of the message that is being written: picked, dropped or pasted; shown above the field until they are sent.
// They are kept as `data:` addresses in this tab alone. How large they may be is the gateway's to say: it names the setting.

import { attachment } from "./attachments.js";
import { announce, byId, el, icon, notify } from "./dom.js";
import { line } from "./values.js";

const SHOWN_TO_MODELS = /^image\/(png|jpeg|gif|webp)$/;

export class Files {
  /** `changed()` is called after each change; `refusal()` says why no files are taken now, null where they are. */
  constructor({ changed, refusal }) {
    Object.assign(this, { changed, refusal });
    this.drafts = new Map(); // by draft: [{ name, media_type, size, url }]
    this.key = "";
    this.list = byId("files");
    this.picker = byId("file-picker");
    this.button = byId("attach");
    this.button.append(icon("clip"));
    this.button.addEventListener("click", () => this.picker.click());
    this.picker.addEventListener("change", () => { this.add([...this.picker.files]); this.picker.value = ""; });
    byId("message").addEventListener("paste", (event) => this.taken(event, event.clipboardData));
    const stage = byId("stage");
    stage.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault(); // or the browser would open the file in the page's place
      stage.classList.add("dropping");
    });
    stage.addEventListener("dragleave", (event) => { if (!stage.contains(event.relatedTarget)) stage.classList.remove("dropping"); });
    stage.addEventListener("drop", (event) => { stage.classList.remove("dropping"); this.taken(event, event.dataTransfer); });
  }

  get chosen() { return this.drafts.get(this.key) ?? []; }

  /** Turn to another draft, with the files that were chosen for it. */
  turnTo(key) {
    this.key = key;
    this.show();
  }

  /** Take the files out, to send them. */
  take() {
    const { chosen } = this;
    this.put(this.key, []);
    return chosen;
  }

  /** Put files into a draft; those that were chosen for it since stay. */
  restore(key, files) {
    this.put(key, [...files, ...(this.drafts.get(key) ?? [])]);
  }

  taken(event, transfer) {
    const files = [...(transfer?.files ?? [])];
    if (!files.length) return; // text
    event.preventDefault();
    this.add(files);
  }

  async add(files) {
    const { key } = this;
    const refusal = this.refusal();
    if (refusal) return notify(refusal);
    for (const file of files) {
      try {
        const read = { name: file.name || "file", media_type: file.type || "application/octet-stream", size: file.size, url: await dataUrl(file) };
        this.put(key, [...(this.drafts.get(key) ?? []), read]);
        announce(`${line(read.name, 60)} attached.`);
      } catch (error) {
        notify(`${line(file.name, 60)}: ${error.message}`);
      }
    }
    byId("message").focus();
  }

  put(key, files) {
    if (files.length) this.drafts.set(key, files);
    else this.drafts.delete(key);
    if (key === this.key) this.show();
  }

  show() {
    this.list.hidden = !this.chosen.length;
    this.list.replaceChildren(...this.chosen.map((file) => {
      const remove = el("button", { type: "button", class: "icon-button small", "aria-label": `Remove ${line(file.name, 60)}` }, icon("close"));
      remove.addEventListener("click", () => { this.put(this.key, this.chosen.filter((other) => other !== file)); byId("message").focus(); });
      return el("li", {}, attachment(file), remove);
    }));
    this.changed();
  }
}

/** Return a message's content with files: a text where there are none. */
export function contentOf(text, files) {
  if (!files.length) return text;
  const parts = files.map(({ name, media_type: type, url }) => (SHOWN_TO_MODELS.test(type)
    ? { type: "image_url", image_url: { url } }
    : { type: "file", file: { filename: name, file_data: url } }));
  return text ? [{ type: "text", text }, ...parts] : parts;
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    if (!file.size) return reject(new Error("there is nothing in it, or it is a folder."));
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("it cannot be read."));
    return reader.readAsDataURL(file);
  });
}
