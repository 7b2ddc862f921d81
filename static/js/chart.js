// Arrow keys walk the bars of a chart, of which only one is in the tab order.

const STEPS = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

document.addEventListener("keydown", (event) => {
  const bar = event.target.closest?.(".chart g[tabindex]");
  const step = STEPS[event.key];
  if (!bar || step === undefined) return;
  event.preventDefault();
  const bars = [...bar.parentNode.querySelectorAll("g[tabindex]")];
  const at = Math.min(Math.max(bars.indexOf(bar) + step, 0), bars.length - 1);
  bar.setAttribute("tabindex", "-1");
  bars[at].setAttribute("tabindex", "0");
  bars[at].focus();
});
