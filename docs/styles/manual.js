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
