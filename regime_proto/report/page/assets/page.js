// Draws the figures of a page in the colours of its theme; legends can be used by mouse and by keyboard.
"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const print = matchMedia("print");
  const narrow = matchMedia("(max-width: 600px)");
  const button = document.getElementById("theme");
  let chosen = null;
  let printing = false;

  const plots = new Map();
  for (const source of document.querySelectorAll("script[data-plot]")) {
    plots.set(source.dataset.plot, { ...JSON.parse(source.textContent), switched: {}, drawn: false });
  }

  function setTheme() {
    const isDark = !printing && !print.matches && (chosen === null ? dark.matches : chosen === "dark");
    root.dataset.theme = isDark ? "dark" : "light";
    button.textContent = isDark ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(isDark));
  }

  // Replaces "var(--name)" anywhere in a figure by a colour of the page.
  function colored(value, style) {
    if (typeof value === "string") {
      const found = /^var\((--[\w-]+)\)$/.exec(value);
      return found ? style.getPropertyValue(found[1]).trim() : value;
    }
    if (Array.isArray(value)) {
      return value.length && typeof value[0] === "number" ? value : value.map((entry) => colored(entry, style));
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, colored(entry, style)]));
    }
    return value;
  }

  function shared(layout, style) {
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: color("--grid"), zerolinecolor: color("--grid"), linecolor: color("--faint"), automargin: true, exponentformat: "power" };
    const small = narrow.matches;
    const result = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: small ? false : "zoom",
      font: { color: color("--text"), family: getComputedStyle(document.body).fontFamily, size: small ? 11 : 13 },
      margin: { l: small ? 44 : 62, r: small ? 8 : 20, t: 12, b: 44 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      hoverlabel: { bgcolor: color("--panel"), bordercolor: color("--edge"), font: { color: color("--text") }, namelength: -1 },
      ...layout,
    };
    for (const name of Object.keys(result)) {
      if (/^[xy]axis\d*$/.test(name)) result[name] = { ...axis, ...result[name] };
    }
    return result;
  }

  // Puts an axis or the colours on a logarithmic scale; values that are not positive are left out.
  function switched(plot) {
    const layout = structuredClone(plot.layout);
    for (const axis of plot.switched["log-axis"] || []) {
      layout[axis] = { ...layout[axis], type: "log", rangemode: "normal" };
    }
    const traces = !plot.switched["log-color"] ? plot.traces : plot.traces.map((trace) => ({
      ...trace,
      z: trace.z.map((row) => row.map((value) => (value > 0 ? Math.log10(value) : null))),
      colorbar: { ...trace.colorbar, title: { ...trace.colorbar.title, text: "log₁₀ " + trace.colorbar.title.text } },
    }));
    return { layout, traces };
  }

  // On a narrow page, a colour bar next to a map takes too much space, so it is placed below.
  function placed(trace) {
    if (!narrow.matches || !trace.colorbar) return trace;
    const title = { ...trace.colorbar.title, side: "top" };
    return { ...trace, colorbar: { ...trace.colorbar, orientation: "h", yref: "container", y: 0, yanchor: "bottom", len: 1, title } };
  }

  function draw(id) {
    const plot = plots.get(id);
    const target = document.getElementById(id);
    const style = getComputedStyle(root);
    const { layout, traces } = switched(plot);
    const config = {
      displaylogo: false, displayModeBar: false, doubleClick: "reset+autosize",
      scrollZoom: false,
    };
    const sized = { ...shared(layout, style), width: target.clientWidth };
    // A colour bar that moves between next to and below a map cannot be redrawn in place.
    if (plot.drawn && plot.narrow !== narrow.matches) {
      Plotly.purge(target);
      plot.drawn = false;
    }
    plot.narrow = narrow.matches;
    Plotly.react(target, colored(traces.map(placed), style), colored(sized, style), config);
    if (!plot.drawn) {
      plot.drawn = true;
      target.on("plotly_afterplot", () => reachable(target));
      reachable(target);
    }
  }

  // Makes a legend usable by keyboard: Enter or the space bar shows or hides a curve.
  function reachable(target) {
    target.querySelectorAll(".legend .traces").forEach((entry) => {
      const toggle = entry.querySelector(".legendtoggle");
      if (!toggle) return;
      // The displayed name differs from the name of the trace, in which "<" is "&lt;".
      const { name } = entry.__data__[0].trace;
      const shown = entry.querySelector(".legendtext")?.textContent || "";
      toggle.setAttribute("tabindex", "0");
      toggle.setAttribute("role", "button");
      toggle.setAttribute("aria-label", shown);
      toggle.setAttribute("aria-pressed", String(entry.style.opacity !== "0.5"));
      toggle.onkeydown = (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        const indices = [];
        target._fullData.forEach((trace, index) => {
          if (trace.name === name) indices.push(index);
        });
        const hidden = target._fullData[indices[0]].visible === "legendonly";
        Plotly.restyle(target, { visible: hidden ? true : "legendonly" }, indices).then(() => {
          target.querySelectorAll(".legendtoggle").forEach((other) => {
            if (other.getAttribute("aria-label") === shown) other.focus();
          });
        });
      };
    });
  }

  function shown(target) {
    return target.closest("details.run:not([open])") === null;
  }

  function drawShown({ again }) {
    for (const [id, plot] of plots) {
      if (shown(document.getElementById(id)) && (again || !plot.drawn)) draw(id);
    }
    root.dataset.drawn = String([...plots.values()].filter((plot) => plot.drawn).length);
  }

  function repaint() {
    setTheme();
    drawShown({ again: true });
  }

  document.addEventListener("change", (event) => {
    const box = event.target;
    if (!box.dataset || !box.dataset.for) return;
    const plot = plots.get(box.dataset.for);
    plot.switched[box.dataset.kind] = box.checked ? box.dataset.targets.split(" ") : undefined;
    draw(box.dataset.for);
  });
  for (const details of document.querySelectorAll("details.run")) {
    details.addEventListener("toggle", () => drawShown({ again: false }));
  }
  // Opens the collapsed section that a link points into.
  function unfold() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    let folded = target && target.closest("details:not([open])");
    if (!folded) return;
    for (; folded; folded = target.closest("details:not([open])")) folded.open = true;
    target.scrollIntoView();
  }
  addEventListener("hashchange", unfold);
  button.addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    repaint();
  });
  // Prints all sections, in light colours, at the width of a sheet of paper.
  function setPrinting(begins) {
    printing = begins;
    root.toggleAttribute("data-printing", begins);
    if (begins) for (const details of document.querySelectorAll("details.run")) details.open = true;
    repaint();
  }
  addEventListener("beforeprint", () => setPrinting(true));
  addEventListener("afterprint", () => setPrinting(false));
  let waiting = null;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    if (!printing) waiting = setTimeout(() => drawShown({ again: true }), 150);
  });
  for (const query of [dark, print, narrow]) query.addEventListener("change", repaint);

  setTheme();
  drawShown({ again: false });
  unfold();
})();
