"use strict";
// A click on a header sorts its table; a second click turns the order round. Units of one kind are compared by value.
const UNITS = { B: 1, kB: 1e3, MB: 1e6, GB: 1e9, "ns": 1e-9, "µs": 1e-6, ms: 1e-3, s: 1, "%": 1e-2 };
const NUMBER = /^[^\d+\-−<(\[]{0,2}([+\-−]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*([A-Za-zµ%]*)/;

function valueOf(text) {
  const found = NUMBER.exec(text);
  if (!found) return null;
  return Number(found[1].replace("−", "-").replaceAll(",", "")) * (UNITS[found[2]] ?? 1);
}

function sort(table, column, descending) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({ row, text: row.cells[column].textContent.trim() }));
  const filled = rows.filter((each) => each.text !== "" && each.text !== "–");
  const numeric = filled.every((each) => valueOf(each.text) !== null);
  const compare = (a, b) => (numeric ? valueOf(a.text) - valueOf(b.text) : a.text.localeCompare(b.text));
  filled.sort((a, b) => (descending ? compare(b, a) : compare(a, b)));
  const empty = rows.filter((each) => !filled.includes(each));
  body.append(...[...filled, ...empty].map((each) => each.row));
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.parentElement;
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sort(header.closest("table"), header.cellIndex, descending);
  });
}

addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});
