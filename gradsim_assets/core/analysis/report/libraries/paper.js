// Vector pictures as PDF.
import { jsPDF } from "jspdf";
import { svg2pdf } from "svg2pdf.js";

globalThis.PaperLibraries = { jsPDF, svg2pdf };
