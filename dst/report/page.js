// Draws the page's figures from the JSON beside them, in the reader's colours, and again
// in light colours and at the width of the paper when the page is printed.
(() => {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const templates = read("templates");
  const plots = [...document.querySelectorAll("[data-figure]")];
  const PAPER = 660; // pixels: fits A4 and Letter within the margins of page.css

  const draw = (printing) => {
    for (const plot of plots) {
      const figure = read(plot.dataset.figure);
      figure.layout.template = dark.matches && !printing ? templates.dark : templates.light;
      figure.layout.autosize = !printing;
      if (printing) figure.layout.width = PAPER;
      Plotly.react(plot, figure.data, figure.layout, {
        responsive: true,
        displayModeBar: false,
        scrollZoom: false,
      });
    }
  };

  draw(false);
  dark.addEventListener("change", () => draw(false));
  window.addEventListener("beforeprint", () => draw(true));
  window.addEventListener("afterprint", () => draw(false));
})();
