// Copy buttons, relative times and what is said when a live part loses the site.
// Every page is complete without this file.

const announcer = document.getElementById("announcer");

function announce(text) {
  announcer.textContent = "";
  // A live region is read when it changes; the same text twice must change twice.
  requestAnimationFrame(() => (announcer.textContent = text));
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const code = button.closest(".terminal").querySelector("code");
  const label = button.querySelector("[data-copy-label]");
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    // No permission, or a page served without TLS: select the text so that one key copies it.
    getSelection().selectAllChildren(code);
    announce("Selected. Press Control or Command and C to copy.");
    return;
  }
  announce("Copied.");
  label.textContent = "Copied";
  button.classList.add("done");
  setTimeout(() => {
    label.textContent = "Copy";
    button.classList.remove("done");
  }, 2000);
});

// The same words as the template filter `ago`.
function ago(moment, now) {
  const seconds = Math.max(0, Math.floor((now - moment) / 1000));
  if (seconds < 3) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  if (seconds < 172800) return "yesterday";
  if (seconds < 30 * 86400) return `${Math.floor(seconds / 86400)} days ago`;
  return null; // older ones are written as dates and stay as they are
}

// A demo's clock may have been moved ahead of the browser's.
const aheadMs = 1000 * Number(document.documentElement.dataset.aheadSeconds || 0);

function tellTimes() {
  const now = Date.now() + aheadMs;
  for (const element of document.querySelectorAll("time[data-ago]")) {
    const words = ago(Date.parse(element.dateTime), now);
    if (words && element.textContent !== words) element.textContent = words;
  }
}

tellTimes();
setInterval(tellTimes, 5000);
document.addEventListener("visibilitychange", tellTimes);
document.addEventListener("htmx:afterSettle", tellTimes);

const trouble = document.getElementById("trouble");
document.addEventListener("htmx:afterRequest", (event) => {
  trouble.hidden = event.detail.successful;
});
