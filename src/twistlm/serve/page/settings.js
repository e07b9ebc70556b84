// What is asked of a continuation: the form, and the address that says the same.

export const $ = (id) => document.getElementById(id);
export const settings = $("settings").elements;

/** What the form asks for, in the names of the API. */
export function asked() {
  return {
    model: settings.model.value,
    voice: settings.voice.value,
    seconds: Number(settings.seconds.value) || Math.min(8, Number(settings.seconds.max)),
    temperature: Number(settings.temperature.value),
    top_k: Number(settings.top_k.value) || null,
    seed: Number(settings.seed.value) || 0,
  };
}

/** The address of this page with these settings; a recording or a file of one's own is not in it. */
export function address(what, source) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(what)) if (value !== null) query.set(name, value);
  if (source?.kind === "example") query.set("example", source.name);
  return `${location.origin}/?${query}`;
}

export function toAddress(source) {
  history.replaceState(null, "", address(asked(), source));
}

export function fromAddress() {
  const query = new URLSearchParams(location.search);
  for (const name of ["seconds", "temperature", "top_k", "seed"]) {
    if (query.has(name) && Number.isFinite(Number(query.get(name)))) settings[name].value = query.get(name);
  }
  for (const [select, name] of [[settings.model, "model"], [settings.voice, "voice"], [$("example"), "example"]]) {
    if ([...select.options].some((option) => option.value === query.get(name))) select.value = query.get(name);
  }
  showTemperature();
}

export async function copyLink(text, say) {
  try {
    await navigator.clipboard.writeText(text);
    say("The link is in the clipboard.");
  } catch {
    history.replaceState(null, "", text);
    say("The link stands in the address bar.");
  }
}

export function showTemperature() {
  $("temperature-out").textContent = Number(settings.temperature.value).toFixed(2);
}
