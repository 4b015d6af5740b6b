"use strict";
const data = JSON.parse(document.getElementById("data").textContent);

// a cell's first number ("0.642 [0.585, 0.700]" sorts as 0.642); text sorts as text, and after numbers
function key(cell) {
  const text = cell.textContent.trim();
  const number = parseFloat(text.replace("−", "-"));
  return Number.isNaN(number) ? [1, text] : [0, number];
}

function compare(a, b) {
  if (a[0] !== b[0]) return a[0] - b[0];
  return a[0] ? a[1].localeCompare(b[1]) : a[1] - b[1];
}

function sortBy(header) {
  const table = header.closest("table"), body = table.tBodies[0];
  const column = [...header.parentNode.children].indexOf(header);
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const other of header.parentNode.children) if (other.ariaSort) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].map((row) => [key(row.cells[column]), row]);
  rows.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
  body.append(...rows.map(([, row]) => row));
}

function filter(input) {
  const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of input.closest("section").querySelector("tbody").rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !wanted.every((word) => text.includes(word));
  }
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function block(text) {
  const pre = document.createElement("pre");
  pre.append(element("code", text));
  return pre;
}

function describe(id) {
  const { common, each } = data.records, record = each[id], part = document.createElement("div");
  part.append(element("h3", record.label));
  if (record.command) part.append(block(record.command));
  const link = element("a", `${data.folder}/${id}.json`);
  link.href = link.textContent;
  const line = element("p", `${record.seconds} s, commit ${record.versions.commit}, record `);
  line.append(link);
  part.append(line);
  const config = { ...common, ...record.config };
  for (const name of record.lacks) delete config[name];
  const lines = Object.entries(config).sort().map(([name, value]) => `${name}: ${JSON.stringify(value)}`);
  for (const [name, text] of [
    ["config", lines.join("\n")],
    ["versions", Object.entries(record.versions).map(([name, value]) => `${name} ${value}`).join("\n")],
    ["local files", Object.entries(record.files).map(([name, value]) => `${name}: ${value}`).join("\n")],
  ]) {
    if (!text) continue;
    const details = document.createElement("details");
    details.append(element("summary", name), block(text));
    part.append(details);
  }
  return part;
}

function show(button) {
  const dialog = document.getElementById("record");
  dialog.querySelector("div").replaceChildren(...button.dataset.records.split(" ").map(describe));
  dialog.showModal();
}

for (const header of document.querySelectorAll("th[aria-sort]")) {
  header.querySelector("button").addEventListener("click", () => sortBy(header));
}
for (const input of document.querySelectorAll("input[type=search]")) {
  input.addEventListener("input", () => filter(input));
}
for (const button of document.querySelectorAll(".records")) button.addEventListener("click", () => show(button));
for (const row of document.querySelectorAll("#claims tbody tr")) {
  const cells = [...row.cells], verdict = cells[cells.length - 1], name = cells[0].textContent;
  if (["matched", "reproduced", "supported"].includes(verdict.textContent)) verdict.classList.add("good");
  if (verdict.textContent === "contradicted") verdict.classList.add("bad");
  if (document.getElementById(name)) {
    const link = element("a", name);
    link.href = `#${name}`;
    cells[0].replaceChildren(link);
  }
}
