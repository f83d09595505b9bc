// The token, where the deployment wants one: a small dialog to paste it, or `#token=…` in the address.

import * as api from "./api.js";
import { byId, el, icon } from "./dom.js";

/** Ask for a token whenever the gateway wants one; `changed` is called when there is another one. */
export function guard(changed) {
  const button = byId("identity");
  button.append(icon("person"));
  const dialog = signIn();
  document.body.append(dialog);
  button.addEventListener("click", () => dialog.showModal());
  button.hidden = !api.token();
  window.addEventListener("mainstem:unauthorized", () => {
    button.hidden = false;
    if (!dialog.open) dialog.showModal();
  });
  window.addEventListener("mainstem:token", () => {
    button.hidden = !api.token();
    changed();
  });
  api.takeToken();
}

function signIn() {
  const field = el("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", required: true });
  const remember = el("input", { type: "checkbox", id: "remember" });
  const dialog = el("dialog", { class: "sign-in", "aria-labelledby": "sign-in-title" });
  const form = el("form", { method: "dialog" },
    el("h2", { id: "sign-in-title" }, "Sign in"),
    el("p", {}, "This deployment wants to know who you are. Paste the token that your administrator or your application gave you."),
    el("label", { for: "token" }, "Token"), field,
    el("label", { class: "check" }, remember, "Keep it in this browser"),
    el("div", { class: "card-bar" },
      el("button", { type: "button", class: "button quiet", on: { click: () => { api.setToken(null); dialog.close(); } } }, "Forget the token"),
      el("button", { type: "submit", class: "button primary" }, "Continue")));
  form.addEventListener("submit", () => {
    api.setToken(field.value.trim(), { remember: remember.checked });
    field.value = "";
  });
  dialog.append(form);
  return dialog;
}
