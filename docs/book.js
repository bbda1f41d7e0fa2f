// What readers with a keyboard or a screen reader need, and Furo and Sphinx leave out.
function mend() {
  document.querySelectorAll("[role=heading]:not([aria-level])").forEach(part => part.setAttribute("aria-level", 2));
  document.querySelector(".toc-drawer")?.setAttribute("aria-label", "On this page");
  for (const box of document.querySelectorAll("pre, .cell_output, .table-wrapper, div.math")) {
    // A box that is wider than the page is scrolled with the arrow keys, once it can be reached.
    if (box.scrollWidth > box.clientWidth) box.setAttribute("tabindex", 0);
    else box.removeAttribute("tabindex");
  }
}
addEventListener("load", () => window.MathJax ? MathJax.Hub.Queue(mend) : mend());
addEventListener("resize", mend);
