// Light, dark, or as the system says.

const key = "sensormesh.theme";
export type Choice = "auto" | "light" | "dark";

class Theme {
  choice = $state<Choice>(read());
  /** Changes whenever colours do: charts draw themselves anew. */
  version = $state(0);

  constructor() {
    this.#apply();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (this.version += 1));
  }

  next() {
    this.choice = this.choice === "auto" ? "light" : this.choice === "light" ? "dark" : "auto";
    localStorage.setItem(key, this.choice);
    this.#apply();
  }

  #apply() {
    if (this.choice === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = this.choice;
    this.version += 1;
  }
}

function read(): Choice {
  const stored = localStorage.getItem(key);
  return stored === "light" || stored === "dark" ? stored : "auto";
}

export const theme = new Theme();
