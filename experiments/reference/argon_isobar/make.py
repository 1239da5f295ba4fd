"""Makes data.csv: `python -m experiments.reference.argon_isobar.make`, where CoolProp is installed.

Density and residual enthalpy of liquid argon at 20 bar by the equation of state of Ch. Tegeler, R. Span and W. Wagner,
J. Phys. Chem. Ref. Data 28, 779 (1999), as CoolProp 8.0.0 has it; densities are uncertain by 0.03 %. What is called
Hvap is into an ideal gas at the same temperature: minus the residual enthalpy, which is what is simulated.
"""

from pathlib import Path

COMMENTS = """# Liquid argon at 20 bar: densities and enthalpies of vaporization into an ideal gas.
# "By the equation of state of Ch. Tegeler, R. Span and W. Wagner, J. Phys. Chem. Ref. Data 28, 779 (1999), see make.py"
# "Denominators are what counts as one: 10 kg/m^3 and 0.1 kJ/mol; what is measured is much more certain"
"""


def main() -> None:
    """Writes the file beside this one."""
    from CoolProp.CoolProp import PropsSI  # pyright: ignore[reportMissingImports]

    lines = ["Global,rho_denom,10.0", "Global,hvap_denom,0.1", "T,P,MBAR,Rho,Rho_wt,Hvap,Hvap_wt"]
    for t in (90, 100, 110, 120):
        density = PropsSI("D", "T", t, "P", 20e5, "Argon")  # kg/m³
        enthalpy = -PropsSI("Hmolar_residual", "T", t, "P", 20e5, "Argon") / 1e3  # kJ/mol
        lines.append(f"{t}.0,20.0 bar,TRUE,{density:.2f},1.0,{enthalpy:.4f},1.0")
    (Path(__file__).parent / "data.csv").write_text(COMMENTS + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
