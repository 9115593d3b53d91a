"use strict";
// Tables as a paper or another program takes them: LaTeX, Markdown, CSV.
const Tables = (() => {
  // A cell's figure with what stands small beside it in brackets: 0.781 (0.696–0.847).
  const cell = (node) => {
    const small = [...node.querySelectorAll("small")].map((one) => one.textContent.trim());
    const whole = node.cloneNode(true);
    whole.querySelectorAll("small, .small").forEach((one) => one.remove());
    const value = whole.textContent.trim().replace(/\s+/g, " ");
    return small.length && small[0] ? `${value} (${small[0]})` : value;
  };
  const rows = (table) => [...table.rows].map((row) => [...row.cells].map(cell));

  const csv = (lines) =>
    lines.map((line) => line.map((text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)).join(",")).join("\n") + "\n";

  const markdown = (table) => {
    const [head, ...body] = rows(table).map((line) => line.map((text) => text.replaceAll("|", "\\|")));
    const aligned = head.map((_, n) => (n ? "---:" : "---"));
    return [head, aligned, ...body].map((line) => `| ${line.join(" | ")} |`).join("\n") + "\n";
  };

  const TEX = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "−": "$-$", "<": "$<$", ">": "$>$", "\u00a0": "~" };
  const tex = (text) => text.replace(/[\\~^–−<>\u00a0&%$#_{}]/g, (sign) => TEX[sign] ?? `\\${sign}`);
  const latex = (table) => {
    const [head, ...body] = rows(table).map((line) => line.map(tex));
    const lines = (part) => part.map((line) => `  ${line.join(" & ")} \\\\`);
    return [
      "% needs \\usepackage{booktabs}", `\\begin{tabular}{l${"r".repeat(head.length - 1)}}`, "  \\toprule", ...lines([head]),
      "  \\midrule", ...lines(body), "  \\bottomrule", "\\end{tabular}",
    ].join("\n") + "\n";
  };

  const start = () => {
    for (const table of document.querySelectorAll("table[data-copied]")) {
      const buttons = document.createElement("p");
      buttons.className = "copies";
      buttons.append(
        Texts.button("LaTeX", () => latex(table), "Copy this table for LaTeX (booktabs)"),
        Texts.button("Markdown", () => markdown(table), "Copy this table as Markdown"),
        Texts.button("CSV", () => csv(rows(table)), "Copy this table as CSV"),
      );
      table.parentNode.after(buttons);
    }
  };
  return { start, csv };
})();
