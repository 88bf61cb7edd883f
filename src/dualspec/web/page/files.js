// Files out and in: the form in which sounds are saved, sounds dragged out, recordings dropped.

const $ = (id) => document.getElementById(id);
const FIELDS = ["format", "subtype", "sample_rate", "loudness_lufs"];
const form = () => JSON.parse(localStorage.getItem("dualspec.form") ?? "{}");

export const suffix = () => form().format ?? "wav";

// What the server is asked for beside a sound's address; nothing where it is wanted as it was made.
export function query() {
  const wanted = new URLSearchParams(Object.entries(form()));
  return wanted.size ? `?${wanted}` : "";
}

function show() {
  const words = FIELDS.map((name) => $(`file-${name}`).selectedOptions[0].textContent);
  $("file-summary").textContent = `Files: ${words.join(", ")}`;
  const name = suffix().toUpperCase(), buttons = document.querySelectorAll("[data-file=audio]:not([data-fixed]), [data-scene-file=audio]");
  for (const button of buttons) if (button.textContent !== name) button.textContent = name;
}

export function beginFiles(info, onDrop) {
  $("file-sample_rate").options[0].textContent = `${info.sample_rate / 1000} kHz`;
  $("file-words").textContent = `Sounds are made at ${String(info.loudness_lufs).replace("-", "−")} LUFS by one gain for both ears, quieter where a peak allows no more. ` +
    `Nothing above ${info.sample_rate / 2000} kHz is in them at any rate.`;
  for (const name of FIELDS) {
    $(`file-${name}`).value = form()[name] ?? "";
    $(`file-${name}`).onchange = () => {
      const wanted = FIELDS.map((field) => [field, $(`file-${field}`).value]).filter(([, value]) => value);
      localStorage.setItem("dualspec.form", JSON.stringify(Object.fromEntries(wanted)));
      show();
    };
  }
  new MutationObserver(show).observe($("cards"), { childList: true, subtree: true });
  show();
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (!event.dataTransfer?.types.includes("Files") || event.dataTransfer.types.includes("application/x-dualspec")) return;
      event.preventDefault();
      document.body.classList.toggle("dropping", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) onDrop(event.dataTransfer.files);
    });
  }
}

// Let something be dragged out of the browser as a WAV file.
export function draggable(node, read, name) {
  node.draggable = true;
  node.addEventListener("dragstart", (event) => {
    const bytes = read();
    if (!bytes) return event.preventDefault();
    const file = new File([bytes], `${name}.wav`, { type: "audio/wav" });
    event.dataTransfer.items.add(file);
    event.dataTransfer.setData("application/x-dualspec", name);
    event.dataTransfer.setData("DownloadURL", `audio/wav:${file.name}:${URL.createObjectURL(file)}`);
    event.dataTransfer.effectAllowed = "copy";
  });
}
