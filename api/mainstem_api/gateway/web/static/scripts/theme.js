// Light or dark: the system's choice until somebody chooses here. A classic script in the head, so that no page
// flashes in the wrong colours before it is ready.
(() => {
  const KEY = "mainstem.theme";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try { return localStorage.getItem(KEY); } catch { return null; } // storage may be forbidden
  };
  const apply = () => {
    document.documentElement.dataset.theme = stored() ?? (dark.matches ? "dark" : "light");
  };
  apply();
  dark.addEventListener("change", apply);
  window.addEventListener("storage", apply); // another tab chose
  window.mainstemTheme = {
    toggle() {
      const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
      try { localStorage.setItem(KEY, next); } catch { /* it holds until the page is left */ }
      document.documentElement.dataset.theme = next;
      return next;
    },
  };
})();
