// Opens the page's dialog when htmx has filled it; without JavaScript its link is a page.

document.addEventListener("htmx:afterSwap", (event) => {
  if (event.target instanceof HTMLDialogElement && !event.target.open) event.target.showModal();
});
