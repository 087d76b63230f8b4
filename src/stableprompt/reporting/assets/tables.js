"use strict";
// Long tables: sorted, searched and filtered as a whole, shown a page of rows at a time.

const ROWS_SHOWN = 25;
const LONG_TEXT = 240;
const HIDDEN_CHARACTERS = /(⟨U\+[0-9A-F]{4,6}⟩)/;

class DataTable {
  constructor(place, table) {
    this.place = place;
    this.first = 0;
    this.sorted = { column: table.sort[0], down: table.sort[1] };
    this.chosen = null;
    this.build(table);
    this.show(table);
  }

  build(table) {
    this.search = table.search ? Make.element("input", { type: "search", placeholder: table.search,
      "aria-label": table.search, autocomplete: "off", spellcheck: "false", oninput: () => this.refresh() }) : null;
    this.choices = Make.element("div", { class: "segments", role: "group", "aria-label": "Show only" });
    this.count = Make.element("span", { class: "quiet", role: "status" });
    this.head = Make.element("tr");
    this.body = Make.element("tbody");
    this.caption = Make.element("caption");
    const grid = Make.element("table", { class: "grid plain", role: "table" }, this.caption,
      Make.element("thead", {}, this.head), this.body);
    const turn = (by, name) => Make.element("button", { type: "button", class: "quiet", onclick: () => {
      this.first += by * ROWS_SHOWN;
      this.draw();
    } }, name);
    this.back = turn(-1, "Previous");
    this.on = turn(1, "Next");
    this.where = Make.element("span");
    this.pager = Make.element("div", { class: "pager" }, this.back, this.where, this.on);
    const scroll = Make.element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": table.caption }, grid);
    const tools = Make.element("div", { class: "tools" }, this.search, this.choices, this.count);
    tools.hidden = !table.search && !table.choices.length;
    this.place.replaceChildren(tools, scroll, this.pager);
  }

  // New rows under the same reader: what was searched, chosen and sorted by stays.
  show(table) {
    const title = this.table?.columns[this.sorted.column]?.title; // a new column may stand before it
    const found = table.columns.findIndex((column) => column.title === title);
    if (found >= 0) this.sorted.column = found;
    this.table = table;
    this.caption.textContent = table.caption;
    this.texts = table.rows.map((row) => row.filter((value) => typeof value === "string").join("\n").toLowerCase());
    this.head.replaceChildren(...table.columns.map((column, number) => this.header(column, number)));
    this.offer();
    this.refresh(false);
  }

  header(column, number) {
    const button = Make.element("button", { type: "button", title: column.about || null, onclick: () => this.sort(number) }, column.title);
    return Make.element("th", { scope: "col", class: this.numeric(column) ? "number" : null, "aria-sort": "none" }, button);
  }

  numeric(column) {
    return column.kind !== "text" && column.kind !== "word";
  }

  belongs(row, choice) {
    return String(row[this.table.choose] ?? "").split(":")[0] === choice;
  }

  offer() {
    const counts = this.table.choices.map((choice) => [choice, this.table.rows.filter((row) => this.belongs(row, choice)).length]);
    const filled = counts.filter(([, count]) => count);
    const button = (choice, label) => Make.element("button", {
      type: "button", "aria-pressed": String(this.chosen === choice),
      onclick: () => { this.chosen = choice; this.offer(); this.refresh(); },
    }, label);
    const focused = [...this.choices.children].indexOf(document.activeElement);
    this.choices.replaceChildren(...(filled.length > 1
      ? [button(null, "all"), ...filled.map(([choice, count]) => button(choice, `${choice} ${Figures.count(count)}`))] : []));
    if (focused >= 0) this.choices.children[focused]?.focus();
  }

  sort(number) {
    const numbers = this.numeric(this.table.columns[number]);
    const down = this.sorted.column === number ? !this.sorted.down : numbers;
    this.sorted = { column: number, down };
    this.refresh();
  }

  refresh(toTop = true) {
    const wanted = (this.search?.value ?? "").trim().toLowerCase();
    const { rows } = this.table;
    this.found = [...rows.keys()].filter((at) =>
      (this.chosen === null || this.belongs(rows[at], this.chosen)) && (!wanted || this.texts[at].includes(wanted)));
    const { column, down } = this.sorted;
    if (column >= 0) this.found.sort((a, b) => this.order(rows[a][column], rows[b][column], down) || a - b);
    if (toTop) this.first = 0;
    this.count.textContent = this.found.length === rows.length ? "" : `${Figures.count(this.found.length)} of ${Figures.count(rows.length)}`;
    [...this.head.children].forEach((cell, at) =>
      cell.setAttribute("aria-sort", at !== column ? "none" : down ? "descending" : "ascending"));
    this.draw();
  }

  // Rows without a value stand last, whichever way it is sorted.
  order(a, b, down) {
    const one = Array.isArray(a) ? a[0] : a;
    const other = Array.isArray(b) ? b[0] : b;
    if (one === null || other === null) return (one === null) - (other === null);
    if (typeof one === "string") return one.localeCompare(String(other), "en", { numeric: true }) * (down ? -1 : 1);
    const by = one - other || (Array.isArray(a) ? (a[1] ?? 0) - (b[1] ?? 0) : 0);
    return down ? -by : by;
  }

  draw() {
    const last = Math.max(0, Math.ceil(this.found.length / ROWS_SHOWN) - 1) * ROWS_SHOWN;
    this.first = Math.min(Math.max(0, this.first), last);
    const shown = this.found.slice(this.first, this.first + ROWS_SHOWN);
    this.body.replaceChildren(...shown.map((at) => this.row(this.table.rows[at])));
    if (!shown.length) {
      this.body.append(Make.element("tr", {}, Make.element("td", { colspan: this.table.columns.length, class: "quiet" }, "Nothing like that.")));
    }
    const to = this.first + shown.length;
    this.where.textContent = `${Figures.count(shown.length ? this.first + 1 : 0)}–${Figures.count(to)} of ${Figures.count(this.found.length)}`;
    this.back.disabled = this.first === 0;
    this.on.disabled = to >= this.found.length;
    this.pager.hidden = this.found.length <= ROWS_SHOWN;
  }

  row(values) {
    return Make.element("tr", {}, ...this.table.columns.map((column, at) => this.cell(column, values[at])));
  }

  cell(column, value) {
    const kind = column.kind === "text" ? "long labelled" : column.kind === "word" ? "word" : "number";
    const cell = Make.element("td", { class: kind, "data-title": column.title });
    if (column.title === "Prompt" || column.title === "Input") cell.classList.remove("labelled");
    if (value === null || value === undefined) return cell;
    if (column.kind === "text") this.long(cell, value);
    else if (column.kind === "word") cell.append(this.badge(value));
    else if (column.kind === "score") this.score(cell, value);
    else if (column.kind === "count") cell.append(Figures.count(value));
    else cell.append(column.kind === "signed" ? Figures.signed(value) : Figures.figure(value));
    return cell;
  }

  score(cell, [score, n]) {
    if (score === null) return;
    cell.append(Figures.figure(score), " ");
    if (n !== null) cell.append(Make.element("span", { class: "n" }, `n ${Figures.count(n)}`));
  }

  badge(value) {
    const start = value.split(":")[0];
    const tone = { chosen: "good", leader: "good", fixed: "good", better: "good", update: "good",
      broke: "bad", worse: "bad", refused: "dim", scored: "dim", "roll back": "bad" }[start] ?? "";
    return Make.element("span", { class: `badge ${tone}` }, ...this.shown(value));
  }

  long(cell, value) {
    const text = Make.element("div", { class: "text", dir: "auto" }, ...this.shown(value));
    cell.append(text);
    if (value.length <= LONG_TEXT && value.split("\n").length <= 3) return;
    text.classList.add("clamped");
    const more = Make.element("button", { type: "button", class: "link", "aria-expanded": "false", onclick: () => {
      const open = !text.classList.toggle("clamped");
      more.textContent = open ? "less" : "more";
      more.setAttribute("aria-expanded", String(open));
    } }, "more");
    cell.append(more);
  }

  // Hidden characters stand there by their numbers, set apart as in the rest of the page.
  shown(value) {
    return value.split(HIDDEN_CHARACTERS).map((part, at) =>
      at % 2 ? Make.element("span", { class: "hidden-char" }, part) : document.createTextNode(part));
  }
}
