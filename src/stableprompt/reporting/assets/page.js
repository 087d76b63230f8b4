"use strict";
// Puts charts and tables into the page, remembers light or dark, and, served live, shows what is new.

const Page = {
  charts: new Map(),
  tables: new Map(),

  start() {
    this.data = JSON.parse(document.getElementById("data").textContent);
    this.fill(document, this.data);
    this.theme();
    document.addEventListener("click", (event) => this.copy(event.target.closest?.(".copy")));
    document.addEventListener("toggle", () => this.charts.forEach((charts) => charts.resize()), true);
    addEventListener("hashchange", () => this.open());
    this.open();
    if (this.data.live) this.follow();
    document.documentElement.dataset.ready = "yes";
  },

  // A link to a run opens it.
  open() {
    const run = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (run instanceof HTMLDetailsElement) run.open = true;
  },

  fill(root, data) {
    for (const place of root.querySelectorAll(".charts")) {
      const run = place.dataset.run;
      const charts = run === "shared" ? data.shared : data.runs[run].charts;
      const known = this.charts.get(run);
      if (known && document.contains(known.place)) known.show(charts);
      else this.charts.set(run, new Charts(place, charts));
    }
    for (const place of root.querySelectorAll(".table")) {
      const name = `${place.dataset.run}/${place.dataset.table}`;
      const table = data.runs[place.dataset.run].tables[place.dataset.table];
      const known = this.tables.get(name);
      if (known && document.contains(known.place)) known.show(table);
      else this.tables.set(name, new DataTable(place, table));
    }
    for (const button of root.querySelectorAll(".copy")) button.hidden = false;
  },

  theme() {
    const root = document.documentElement;
    const button = document.getElementById("theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
    const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
    const repaint = () => { name(); this.charts.forEach((charts) => charts.repaint()); };
    try { root.dataset.theme = localStorage.getItem("stableprompt-theme") ?? ""; } catch { /* not kept here */ }
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("stableprompt-theme", root.dataset.theme); } catch { /* not kept here */ }
      repaint();
    });
    system.addEventListener("change", repaint);
    repaint();
  },

  async copy(button) {
    if (!button) return;
    const text = this.data.runs[button.dataset.run].copy[button.dataset.copy];
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed here";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  },

  // The same address, again and again: the server says 304 while the run folder stays as it is.
  async follow() {
    const state = document.getElementById("live");
    const waiting = 2000;
    let version = null;
    let changed = Date.now();
    const told = (text) => { if (state.textContent !== text) state.textContent = text; };
    for (;;) {
      try {
        const answer = await fetch(location.pathname, { cache: "no-store", headers: version ? { "If-None-Match": version } : {} });
        if (answer.status === 200) {
          version = answer.headers.get("ETag");
          this.renew(await answer.text());
          changed = Date.now();
        }
        const minutes = Math.floor((Date.now() - changed) / 60000);
        told(this.data.done ? "finished" : minutes ? `live · last change ${minutes} min ago` : "live");
      } catch {
        told("not connected: stableprompt watch has ended");
      }
      await new Promise((done) => setTimeout(done, waiting));
    }
  },

  // Takes over what differs and leaves charts and tables in place, with what the reader did to them.
  renew(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    const source = fresh.getElementById("data").textContent;
    if (source === document.getElementById("data").textContent) return;
    document.getElementById("data").textContent = source;
    this.data = JSON.parse(source);
    const kept = new Map([...document.querySelectorAll(".charts, .table")].map((place) =>
      [`${place.className}/${place.dataset.run}/${place.dataset.table}`, place]));
    const opened = new Set([...document.querySelectorAll("details[open]")].map((one) => this.nameOf(one)));
    const focused = document.activeElement;
    const main = document.importNode(fresh.getElementById("main"), true);
    for (const place of main.querySelectorAll(".charts, .table")) {
      const old = kept.get(`${place.className}/${place.dataset.run}/${place.dataset.table}`);
      if (old) place.replaceWith(old);
    }
    for (const one of main.querySelectorAll("details")) if (opened.has(this.nameOf(one))) one.open = true;
    const scrolled = scrollY;
    document.getElementById("main").replaceWith(main);
    document.title = fresh.title;
    this.fill(document, this.data);
    scrollTo(0, scrolled);
    if (document.contains(focused)) focused.focus({ preventScroll: true });
  },

  nameOf(details) {
    return `${details.closest("details.run")?.id ?? ""}/${details.querySelector("summary").textContent}`;
  },
};

Page.start();
