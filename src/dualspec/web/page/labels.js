// All sounds that the model was trained on, found as one types.

const $ = (id) => document.getElementById(id);

export function beginLabels(labels, onChoice) {
  const choose = (name) => ($("labels").close(), onChoice(name));
  const show = () => {
    const words = $("label-search").value.trim().toLowerCase().split(/\s+/);
    const found = labels.filter((name) => words.every((word) => name.toLowerCase().includes(word)));
    $("label-count").textContent = found.length === labels.length ? `${labels.length} sounds` : `${found.length} of ${labels.length}`;
    $("label-list").replaceChildren(...found.map((name) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
      button.onclick = () => choose(name);
      return button;
    }));
  };
  $("browse").hidden = !labels.length;
  $("browse").textContent = `All ${labels.length} sounds that it knows`;
  $("browse").onclick = () => {
    $("label-search").value = "";
    show();
    $("labels").showModal();
  };
  $("label-search").oninput = show;
  $("labels").querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    const first = $("label-list").firstElementChild;
    if (first) choose(first.textContent);
  };
  $("labels-close").onclick = () => $("labels").close();
}
