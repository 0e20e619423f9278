// A page that is opened from a file may not read others: search then lists titles only.
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// The theme gives these switches an icon, but no name.
addEventListener("DOMContentLoaded", () => {
  for (const icon of document.querySelectorAll("summary > .toctree-toggle")) {
    const page = icon.closest("li").querySelector("a").textContent.trim();
    icon.parentElement.setAttribute("aria-label", `Pages below ${page}`);
  }
});

// On a phone, the cells of a row of words are below each other: each needs the heading of its column.
addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("article table.table")) {
    const headings = [...table.querySelectorAll("thead th")].map((one) => one.textContent.trim());
    if (headings.length < 3 || table.querySelector("td.text-right, [colspan], [rowspan]")) continue;
    table.dataset.stacked = "";
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, index) => {
        if (index && headings[index] && cell.textContent.trim()) cell.dataset.heading = headings[index];
      });
    }
  }
});
