// Draws the page's figures from the JSON beside them, in the reader's colours, and again
// in light colours and at the width of the paper when the page is printed.
(() => {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const templates = read("templates");
  const plots = [...document.querySelectorAll("[data-figure]")];
  // Pixels that fit A4 and Letter within the margins of page.css, with a caption below.
  const PAPER = { width: 660, height: 800 };

  let printing = false; // printing may also turn a dark scheme to light while it lasts

  const draw = () => {
    for (const plot of plots) {
      const figure = read(plot.dataset.figure);
      figure.layout.template = dark.matches && !printing ? templates.dark : templates.light;
      figure.layout.autosize = !printing;
      // A figure taller than a sheet is made smaller as a whole, so that nothing in it collides.
      const scale = printing ? Math.min(1, PAPER.height / figure.layout.height) : 1;
      if (printing) figure.layout.width = PAPER.width / scale;
      plot.style.zoom = scale;
      plot.style.height = `${figure.layout.height}px`;
      Plotly.react(plot, figure.data, figure.layout, {
        responsive: !printing,
        displayModeBar: false,
        scrollZoom: false,
      });
    }
  };

  const print = (now) => () => {
    printing = now;
    draw();
  };

  draw();
  dark.addEventListener("change", draw);
  window.addEventListener("beforeprint", print(true));
  window.addEventListener("afterprint", print(false));
})();
